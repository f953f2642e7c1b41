// A login provider for the test: oidc-provider with keys of its own at each start, people, and a program.
// In: ISSUER, PORT, CALLBACK, GROUPS_FILE (JSON: groups by name, read anew each time). Out: the provider at PORT; "ready" on stdout.
import { readFileSync } from "node:fs";
import Provider from "oidc-provider";
import { exportJWK, generateKeyPair } from "jose";

const { ISSUER, PORT, CALLBACK, GROUPS_FILE } = process.env;
const groups = () => JSON.parse(readFileSync(GROUPS_FILE, "utf8"));
const { privateKey } = await generateKeyPair("RS256", { extractable: true });
const key = { ...(await exportJWK(privateKey)), use: "sig", alg: "RS256", kid: `key-${process.pid}` };

const provider = new Provider(ISSUER, {
  clients: [
    { client_id: "millrace", client_secret: "s3cret:of the client", redirect_uris: [CALLBACK] },
    { client_id: "ci", client_secret: "ci-secret", grant_types: ["client_credentials"], redirect_uris: [], response_types: [] },
  ],
  jwks: { keys: [key] },
  cookies: { keys: ["only for this test"] },
  claims: { openid: ["sub"], profile: ["preferred_username"], groups: ["groups"] },
  pkce: { required: () => true },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, preferred_username: id, groups: groups()[id] ?? [] }),
  }),
  extraTokenClaims: () => ({ groups: ["pay"] }),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({ scope: "read", audience: "urn:millrace", accessTokenFormat: "jwt" }),
    },
  },
});
provider.on("server_error", (_, error) => console.error(error));
provider.listen(Number(PORT), "127.0.0.1", () => console.log("ready"));
