//! A login provider for tests: description, keys, codes and user information over HTTP on this host.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value as Json, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::routes::{Methods, Need, Routes};
use crate::serve::{HttpListener, HttpSettings};

/// A private key.
pub struct Signer(EcdsaKeyPair);

impl Signer {
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap())
    }

    /// The public key, as a point.
    pub fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    pub fn jwk(&self, id: &str) -> Json {
        let part = |range| URL_SAFE_NO_PAD.encode(&self.point()[range]);
        json!({"kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "alg": "ES256", "x": part(1..33), "y": part(33..65)})
    }

    pub fn token(&self, header: &Json, claims: &Json) -> String {
        let text = unsigned(header, claims);
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Header and claims of a token.
pub fn unsigned(header: &Json, claims: &Json) -> String {
    let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// What a provider knows of a login.
struct Login {
    nonce: String,
    challenge: String,
    redirect_url: String,
    claims: Json,
}

struct Shared {
    issuer: Mutex<String>,
    signer: Mutex<(String, Signer)>,
    codes: Mutex<HashMap<String, Login>>,
    user_info: Mutex<Json>,
    is_down: Mutex<bool>,
    fetches: Mutex<usize>,
}

/// A running provider; stopped when dropped.
pub struct Fake {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

pub const SECRET: &str = "s3cret of: the client";

impl Fake {
    pub async fn start() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = HttpListener::open_async(HttpSettings::new("fake", "fake", "127.0.0.1:0")).await.unwrap();
        let shared = Arc::new(Shared {
            issuer: Mutex::new(format!("http://{}", listener.address())),
            signer: Mutex::new(("one".to_owned(), Signer::new())),
            codes: Mutex::default(),
            user_info: Mutex::new(Json::Null),
            is_down: Mutex::new(false),
            fetches: Mutex::new(0),
        });
        let routes = Routes::new()
            .on(Need::Public, Methods::Get, "/.well-known/openid-configuration", describe)
            .on(Need::Public, Methods::Get, "/keys", keys)
            .on(Need::Public, Methods::Get, "/me", user_info)
            .on(Need::Login, Methods::Post, "/token", token)
            .with_state(Arc::clone(&shared));
        let stop = CancellationToken::new();
        let serving = listener.serve(routes, stop.clone());
        #[allow(clippy::disallowed_methods)] // a test
        tokio::spawn(serving);
        Self { shared, _stop: stop.drop_guard() }
    }

    pub fn issuer(&self) -> String {
        self.shared.issuer.lock().clone()
    }

    /// Signs with another key from now on; the one before is gone.
    pub fn rotate(&self, id: &str) {
        *self.shared.signer.lock() = (id.to_owned(), Signer::new());
    }

    pub fn set_down(&self, is_down: bool) {
        *self.shared.is_down.lock() = is_down;
    }

    pub fn set_user_info(&self, claims: Json) {
        *self.shared.user_info.lock() = claims;
    }

    /// How often its keys were fetched.
    pub fn fetches(&self) -> usize {
        *self.shared.fetches.lock()
    }

    /// What an authorization request asks for: the user logs in with these claims, and gets this code.
    pub fn logs_in(&self, authorization: &str, code: &str, claims: Json) {
        let url = url::Url::parse(authorization).unwrap();
        let given: HashMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!(given["response_type"], "code");
        assert_eq!((&*given["client_id"], &*given["code_challenge_method"]), ("millrace", "S256"));
        let login = Login {
            nonce: given["nonce"].clone(),
            challenge: given["code_challenge"].clone(),
            redirect_url: given["redirect_uri"].clone(),
            claims,
        };
        self.shared.codes.lock().insert(code.to_owned(), login);
    }

    /// A token of the provider, with what it needs unless the claims say otherwise.
    pub fn token(&self, claims: &Json) -> String {
        self.shared.token(claims)
    }
}

impl Shared {
    fn token(&self, claims: &Json) -> String {
        let mut all = json!({"iss": *self.issuer.lock(), "aud": "millrace", "sub": "1", "exp": 4_102_444_800_u64});
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let (id, signer) = &*self.signer.lock();
        signer.token(&json!({"alg": "ES256", "kid": id}), &all)
    }

    fn answer(&self, json: Json) -> Response {
        if *self.is_down.lock() {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        axum::Json(json).into_response()
    }
}

async fn describe(State(shared): State<Arc<Shared>>) -> Response {
    let issuer = shared.issuer.lock().clone();
    shared.answer(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/auth?tenant=x"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/keys"),
        "userinfo_endpoint": format!("{issuer}/me"),
        "end_session_endpoint": format!("{issuer}/end"),
    }))
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    *shared.fetches.lock() += 1;
    let (id, signer) = &*shared.signer.lock();
    shared.answer(json!({"keys": [signer.jwk(id)]}))
}

async fn user_info(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    assert_eq!(headers["authorization"], "Bearer access");
    let claims = shared.user_info.lock().clone();
    shared.answer(claims)
}

async fn token(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: String) -> Response {
    let given: HashMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let secret: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    assert_eq!(headers["authorization"], format!("Basic {}", STANDARD.encode(format!("millrace:{secret}"))).as_str());
    assert_eq!(given["grant_type"], "authorization_code");
    let refused = |why: &str| {
        let answer = json!({"error": "invalid_grant", "error_description": why});
        (StatusCode::BAD_REQUEST, axum::Json(answer)).into_response()
    };
    let Some(login) = shared.codes.lock().remove(&given["code"]) else { return refused("unknown <code>") };
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, given["code_verifier"].as_bytes()));
    if challenge != login.challenge || given["redirect_uri"] != login.redirect_url {
        return refused("wrong verifier or redirect_uri");
    }
    let mut claims = json!({"nonce": login.nonce});
    for (name, value) in login.claims.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let id_token = shared.token(&claims);
    shared.answer(json!({"token_type": "Bearer", "access_token": "access", "id_token": id_token}))
}
