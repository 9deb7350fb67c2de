//! The routes, and a loop that accepts connections with limits on time and size.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use soft_examples::statusln;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

use super::access::Access;
use super::answers::Server;
use super::refusal::Refusal;
use super::response::Kind;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 512;
/// For the head of a request, and then for its body.
const READ_TIME: Duration = Duration::from_secs(10);
/// Bytes of the head of a request.
const HEAD_BYTES: usize = 32 * 1024;
/// How long a shutdown waits for answers.
const SHUTDOWN_TIME: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct App {
    pub server: Arc<Server>,
    pub access: Access,
    /// Bytes of a body.
    pub body_limit: usize,
}

pub fn routes(app: App) -> Router {
    let api = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/lens", post(lens))
        .route("/metrics", get(metrics))
        .route_layer(middleware::from_fn_with_state(app.clone(), check));
    Router::new()
        .route("/", get(page))
        .route("/page.js", get(script))
        .route("/page.css", get(style))
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .merge(api)
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "not_found", "no such address") })
        .method_not_allowed_fallback(|method: Method| async move {
            let message = format!("{method} is not allowed here");
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                message,
            )
        })
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .with_state(app)
}

/// Counts responses by status.
async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let mut figures = app.server.metrics.lock();
    *figures
        .responses
        .entry(response.status().as_u16())
        .or_default() += 1;
    drop(figures);
    response
}

async fn check(State(app): State<App>, request: Request, next: Next) -> Result<Response, Refusal> {
    app.access.check(request.method(), request.headers())?;
    Ok(next.run(request).await)
}

/// The page may load nothing from elsewhere, and not be framed.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src \
    'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

async fn page(State(app): State<App>, headers: HeaderMap) -> Result<Response, Refusal> {
    app.access.check_host(&headers)?;
    let policy = (CONTENT_SECURITY_POLICY, PAGE_POLICY);
    Ok(([policy], Html(include_str!("page/page.html"))).into_response())
}

async fn script() -> Response {
    let script = include_str!("page/page.js");
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], script).into_response()
}

async fn style() -> Response {
    let style = include_str!("page/page.css");
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], style).into_response()
}

async fn lens(State(app): State<App>, body: Body) -> Result<Response, Refusal> {
    let body = read(body, app.body_limit).await?;
    app.server.lens(&body).await
}

async fn models(State(app): State<App>) -> Response {
    Json(app.server.models.json(&app.server.costs.now())).into_response()
}

async fn model(State(app): State<App>, Path(name): Path<String>) -> Result<Response, Refusal> {
    Ok(Json(app.server.models.one(&name)?).into_response())
}

async fn metrics(State(app): State<App>) -> Response {
    let text = app.server.metrics.text(app.server.queue.len());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn completions(State(app): State<App>, body: Body) -> Result<Response, Refusal> {
    answer(app, Kind::Completion, body).await
}

async fn chat(State(app): State<App>, body: Body) -> Result<Response, Refusal> {
    answer(app, Kind::Chat, body).await
}

async fn answer(app: App, kind: Kind, body: Body) -> Result<Response, Refusal> {
    let body = read(body, app.body_limit).await?;
    app.server.answer(kind, &body).await
}

async fn read(body: Body, limit: usize) -> Result<Vec<u8>, Refusal> {
    let read = tokio::time::timeout(READ_TIME, Limited::new(body, limit).collect()).await;
    let Ok(read) = read else {
        let message = format!("the body took longer than {} s", READ_TIME.as_secs());
        return Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            message,
        ));
    };
    match read {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("the body has more than {limit} bytes");
            Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                message,
            ))
        }
        Err(error) => Err(Refusal::bad_request(format!(
            "the body cannot be read: {error}"
        ))),
    }
}

/// Serves until `shutdown` is notified, then until the running answers have ended.
pub async fn serve(listener: TcpListener, app: App, shutdown: Arc<Notify>) -> Result<()> {
    let service = TowerToHyperService::new(routes(app.clone()));
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIME)
        .max_buf_size(HEAD_BYTES);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => (place, stream),
                // Such as too many open files.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown.notified() => break,
        };
        let _ = stream.set_nodelay(true);
        let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that breaks the connection is no error of the server.
            let _ = connection.await;
            drop(place);
        });
    }
    statusln!("shutting down: running answers are finished, Ctrl-C again ends them");
    drop(listener);
    app.server.queue.close();
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(SHUTDOWN_TIME) => statusln!("answers were cut short"),
        () = shutdown.notified() => {}
    }
    Ok(())
}
