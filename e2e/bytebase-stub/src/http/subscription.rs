//! Showing the license in force and uploading another.

use super::{Shared, accounts::User, errors::ApiError};
use crate::license::{License, strip_line_breaks};
use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

/// Body of an upload.
#[derive(Deserialize)]
pub struct Upload {
    license: String,
}

/// The license in force, to whoever is logged in.
pub async fn show(State(app): Shared, _: User) -> Result<Json<Value>, ApiError> {
    let mut session = app.database.pool().acquire().await?;
    Ok(Json(describe(
        &app.entitlement.license(&mut session).await?,
    )))
}

/// Stores a license that holds. Other replicas learn of it once what they remember is too old.
pub async fn upload(
    State(app): Shared,
    user: User,
    body: Result<Json<Upload>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    if !user.admin {
        return Err(ApiError::Forbidden);
    }
    let Json(body) = body.map_err(|_| ApiError::Invalid("the body holds no license"))?;
    let token = strip_line_breaks(&body.license);
    let mut transaction = app.database.pool().begin().await?;
    let workspace: String =
        sqlx::query_scalar("SELECT resource_id FROM workspace WHERE NOT deleted")
            .fetch_one(&mut *transaction)
            .await?;
    let license = app
        .entitlement
        .verifier()
        .verify(&token, &workspace, Timestamp::now())?;
    sqlx::query(
        "UPDATE setting SET value = jsonb_set(value, '{license}', to_jsonb($1::text))
         WHERE workspace = $2 AND name = 'SYSTEM'",
    )
    .bind(token)
    .bind(workspace)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    app.entitlement.forget();
    tracing::info!(plan = ?license.plan, ha = license.ha, "license updated");
    Ok(Json(describe(&license)))
}

fn describe(license: &License) -> Value {
    let mut description = json!({
        "plan": license.plan,
        "ha": license.ha,
        "trialing": license.trialing,
        "seats": license.seats,
        "instances": license.instances,
        "orgName": license.organization,
    });
    if let Some(end) = license
        .expires
        .and_then(|end| Timestamp::from_second(end).ok())
    {
        description["expiresTime"] = end.to_string().into();
    }
    description
}
