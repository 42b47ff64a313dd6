//! The routes; the module `admin` says what each answers.

use std::future::ready;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::repair::{self, Repairs};
use crate::metrics::Metrics;
use crate::status::Board;

#[derive(Clone)]
struct Shared {
    board: Arc<Board>,
    metrics: Arc<Metrics>,
}

/// All routes, answered from this board; orders go to `repairs`.
///
/// # Errors
/// The table of metrics is broken: a bug.
pub(super) fn routes(board: Arc<Board>, repairs: Repairs) -> prometheus::Result<Router> {
    let metrics = Arc::new(Metrics::try_new(Arc::clone(&board))?);
    let shared = Shared { board, metrics };
    Ok(Router::new()
        .route("/", get(|State(s)| ready(index(&s))))
        .route("/metrics", get(|State(s)| ready(metrics_text(&s))))
        .route("/livez", get(|| ready("alive\n")))
        .route("/readyz", get(|State(s)| ready(readiness(&s))))
        .route("/status", get(|State(s)| ready(status(&s))))
        .with_state(shared)
        .merge(repair::route(repairs)))
}

fn index(shared: &Shared) -> String {
    let status = shared.board.status();
    format!(
        "tandem {} at {}: /metrics /livez /readyz /status\n",
        status.version, status.site
    )
}

fn metrics_text(shared: &Shared) -> Response {
    match shared.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn readiness(shared: &Shared) -> (StatusCode, String) {
    if let Some(holder) = shared.board.standby() {
        let message = format!("standing by: {holder} works for this site\n");
        return (StatusCode::SERVICE_UNAVAILABLE, message);
    }
    let redis = shared.board.redis().clone();
    if redis.usable {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let reason = redis.error.as_deref().unwrap_or("not connected yet");
    let message = format!("the local Redis cannot be used: {reason}\n");
    (StatusCode::SERVICE_UNAVAILABLE, message)
}

fn status(shared: &Shared) -> Response {
    Json(shared.board.status()).into_response()
}
