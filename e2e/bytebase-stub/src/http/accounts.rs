//! Sign-up, log-in and the tokens that prove a log-in on every replica.
//!
//! Passwords are stored as salted PBKDF2 with few rounds: these are test accounts, and a test has
//! no time.

use super::{App, Shared, errors::ApiError};
use aws_lc_rs::pbkdf2;
use axum::{
    Json,
    extract::{FromRequestParts, State, rejection::JsonRejection},
    http::{header, request::Parts},
};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use std::{num::NonZeroU32, sync::Arc};

const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(9_999);
const ISSUER: &str = "bytebase";
const AUDIENCE: &str = "bb.user.access";
const ADMIN_ROLE: &str = "roles/workspaceAdmin";
/// What Bytebase asks for where the workspace has no rule of its own.
const SHORTEST_PASSWORD: usize = 8;
const REFUSED: ApiError = ApiError::Unauthenticated("the email or password is not valid");
const NO_TOKEN: ApiError = ApiError::Unauthenticated("access token not found or not valid");

/// The one who sent the request, proved by a bearer token.
pub struct User {
    /// Whether this is the workspace administrator.
    pub admin: bool,
}

/// Body of a sign-up.
#[derive(Deserialize)]
pub struct SignUp {
    email: String,
    password: String,
    #[serde(default)]
    title: String,
}

/// Body of a log-in.
#[derive(Deserialize)]
pub struct LogIn {
    email: String,
    password: String,
}

#[derive(Serialize, Deserialize)]
struct TokenClaims {
    iss: String,
    aud: String,
    sub: String,
    iat: i64,
    exp: i64,
}

/// Whoever comes first becomes the administrator of the workspace, which is made then.
///
/// As in Bytebase the workspace comes first and the user in it only then: what ends in between
/// leaves a workspace without users.
pub async fn sign_up(
    State(app): Shared,
    body: Result<Json<SignUp>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(body) = body.map_err(|_| ApiError::Invalid("the body is not a sign-up"))?;
    let email = body.email.trim().to_lowercase();
    if !email.contains('@') {
        return Err(ApiError::Invalid("an email is needed"));
    }
    if body.title.is_empty() {
        return Err(ApiError::Invalid("a title is needed"));
    }
    if body.password.len() < SHORTEST_PASSWORD {
        return Err(ApiError::Invalid("the password is too short"));
    }
    let pool = app.database.pool();
    let is_known: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM principal WHERE email = $1)")
            .bind(&email)
            .fetch_one(pool)
            .await?;
    if is_known {
        return Err(ApiError::Exists);
    }
    ensure_workspace(pool, &email).await?;
    let id: Option<i64> = sqlx::query_scalar(
        "INSERT INTO principal (email, name, password_hash) VALUES ($1, $2, $3)
         ON CONFLICT (email) DO NOTHING RETURNING id",
    )
    .bind(&email)
    .bind(&body.title)
    .bind(hash(&body.password))
    .fetch_optional(pool)
    .await?;
    let id = id.ok_or(ApiError::Exists)?;
    tracing::info!(principal = id, "signed up");
    let token = issue(&app, id).await?;
    Ok(Json(
        json!({"token": token, "user": {"name": format!("users/{email}"), "email": email, "title": body.title}}),
    ))
}

/// Makes the workspace for its administrator, unless there is one.
async fn ensure_workspace(pool: &PgPool, admin: &str) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    // Two who come first at the same moment: one of them waits here.
    sqlx::query("LOCK TABLE workspace IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    let is_there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM workspace WHERE NOT deleted)")
            .fetch_one(&mut *transaction)
            .await?;
    if !is_there {
        create_workspace(&mut transaction, admin).await?;
    }
    transaction.commit().await
}

async fn create_workspace(session: &mut PgConnection, admin: &str) -> sqlx::Result<()> {
    let workspace = format!("ws-{}", uuid::Uuid::new_v4().simple());
    sqlx::query("INSERT INTO workspace (resource_id) VALUES ($1)")
        .bind(&workspace)
        .execute(&mut *session)
        .await?;
    let policy = json!({"bindings": [{"role": ADMIN_ROLE, "members": [format!("users/{admin}")]}]});
    sqlx::query("INSERT INTO policy (workspace, type, payload) VALUES ($1, 'IAM', $2::jsonb)")
        .bind(&workspace)
        .bind(policy.to_string())
        .execute(&mut *session)
        .await?;
    // The secret is in the database, so that a token of one replica is good on every other.
    let secret = hex::encode(rand::rng().random::<[u8; 32]>());
    sqlx::query("INSERT INTO setting (name, workspace, value) VALUES ('SYSTEM', $1, jsonb_build_object('authSecret', $2))")
        .bind(&workspace)
        .bind(secret)
        .execute(session)
        .await
        .map(|_| ())
}

/// A token for an email and a password.
pub async fn log_in(
    State(app): Shared,
    body: Result<Json<LogIn>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(body) = body.map_err(|_| ApiError::Invalid("the body is not a log-in"))?;
    let account: Option<(i64, String)> =
        sqlx::query_as("SELECT id, password_hash FROM principal WHERE email = $1 AND NOT deleted")
            .bind(body.email.trim().to_lowercase())
            .fetch_optional(app.database.pool())
            .await?;
    let (id, stored) = account.ok_or(REFUSED)?;
    if !fits(&body.password, &stored) {
        return Err(REFUSED);
    }
    Ok(Json(json!({"token": issue(&app, id).await?})))
}

impl FromRequestParts<Arc<App>> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let token = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or(NO_TOKEN)?;
        let secret = auth_secret(app.database.pool()).await?.ok_or(NO_TOKEN)?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        let key = DecodingKey::from_secret(secret.as_bytes());
        let claims = jsonwebtoken::decode::<TokenClaims>(token, &key, &validation)
            .map_err(|_| NO_TOKEN)?
            .claims;
        let id: i64 = claims.sub.parse().map_err(|_| NO_TOKEN)?;
        let admin = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM policy, jsonb_array_elements(payload->'bindings') binding
                 WHERE type = 'IAM' AND binding->>'role' = $2 AND binding->'members' ? ('users/' || email))
             FROM principal WHERE id = $1 AND NOT deleted",
        )
        .bind(id)
        .bind(ADMIN_ROLE)
        .fetch_optional(app.database.pool())
        .await?
        .ok_or(NO_TOKEN)?;
        Ok(Self { admin })
    }
}

async fn issue(app: &App, principal: i64) -> Result<String, ApiError> {
    let secret = auth_secret(app.database.pool())
        .await?
        .ok_or(ApiError::Token)?;
    let now = Timestamp::now().as_second();
    let life = i64::try_from(app.knobs.token_life.as_secs()).unwrap_or_default();
    let claims = TokenClaims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: principal.to_string(),
        iat: now,
        exp: now.saturating_add(life),
    };
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|_| ApiError::Token)
}

async fn auth_secret(pool: &PgPool) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        "SELECT s.value->>'authSecret' FROM workspace w
         JOIN setting s ON s.workspace = w.resource_id AND s.name = 'SYSTEM' WHERE NOT w.deleted",
    )
    .fetch_optional(pool)
    .await
    .map(Option::flatten)
}

fn hash(password: &str) -> String {
    let salt: [u8; 16] = rand::rng().random();
    let mut derived = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        ROUNDS,
        &salt,
        password.as_bytes(),
        &mut derived,
    );
    format!("{}:{}", hex::encode(salt), hex::encode(derived))
}

fn fits(password: &str, stored: &str) -> bool {
    let parts = stored
        .split_once(':')
        .and_then(|(salt, derived)| Some((hex::decode(salt).ok()?, hex::decode(derived).ok()?)));
    parts.is_some_and(|(salt, derived)| {
        pbkdf2::verify(
            pbkdf2::PBKDF2_HMAC_SHA256,
            ROUNDS,
            &salt,
            password.as_bytes(),
            &derived,
        )
        .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_only_and_every_hash_has_its_own_salt() {
        let stored = hash("open sesame");
        assert!(fits("open sesame", &stored));
        assert!(!fits("open barley", &stored));
        assert_ne!(stored, hash("open sesame"));
        assert!(!stored.contains("sesame"));
    }
}
