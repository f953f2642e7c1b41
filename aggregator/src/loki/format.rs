//! `/format_query`: a query in the form that the printer of LogQL gives it.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_logql::syntax::print::pretty;

use super::error::LokiError;
use super::json;
use super::params::Params;
use super::query::parse;

pub(super) async fn format_query(params: Params) -> Result<Response, LokiError> {
    let mut out = String::new();
    match parse(params.get("query")) {
        Ok(expr) => {
            out.push_str(r#"{"status":"success","data":"#);
            json::string(&mut out, &pretty(&expr));
            out.push('}');
            Ok(json::answer(out))
        }
        Err(fault) => {
            out.push_str(r#"{"status":"invalid-query","error":"#);
            json::string(&mut out, &fault.to_string());
            out.push('}');
            Ok((StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, json::JSON)], out).into_response())
        }
    }
}
