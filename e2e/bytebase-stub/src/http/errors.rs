//! Errors in the shape of a gRPC gateway: a status, a code and a message that holds no secret.

use crate::license::LicenseError;
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// What a request may end with, other than well.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request says too little or something wrong.
    #[error("{0}")]
    Invalid(&'static str),
    /// The uploaded license does not hold.
    #[error("invalid license: {0}")]
    License(#[from] LicenseError),
    /// No token, or none of ours.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// Only for the workspace administrator.
    #[error("permission denied: only the workspace admin may do this")]
    Forbidden,
    /// Nothing here.
    #[error("not found")]
    NotFound,
    /// The email address is taken.
    #[error("a user with this email exists")]
    Exists,
    /// The database failed; its words go to the log only.
    #[error("internal error")]
    Database(#[from] sqlx::Error),
    /// A token could not be made.
    #[error("internal error")]
    Token,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::Invalid(_) | Self::License(_) => (StatusCode::BAD_REQUEST, 3),
            Self::NotFound => (StatusCode::NOT_FOUND, 5),
            Self::Exists => (StatusCode::CONFLICT, 6),
            Self::Forbidden => (StatusCode::FORBIDDEN, 7),
            Self::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, 16),
            Self::Token => (StatusCode::INTERNAL_SERVER_ERROR, 13),
            Self::Database(error) => {
                tracing::error!(%error, "a request failed on the database");
                (StatusCode::INTERNAL_SERVER_ERROR, 13)
            }
        };
        let body = json!({"code": code, "message": self.to_string(), "details": []});
        (status, Json(body)).into_response()
    }
}
