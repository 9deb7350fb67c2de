//! Requests that are refused: each with its 4xx, in OpenAI's form, and the server goes on.

use std::io::Write;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Server, greedy, response};

/// The path, the body, the status, and a part of the message.
type Bad<'a> = (&'a str, String, u16, &'a str);

fn completion(fields: serde_json::Value) -> String {
    let mut body = json!({"prompt": "mira", "max_tokens": 2});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    body.to_string()
}

fn chat(messages: serde_json::Value) -> String {
    json!({"messages": messages, "max_tokens": 2}).to_string()
}

#[rustfmt::skip] // one request per line
fn bad_bodies() -> Vec<Bad<'static>> {
    const C: &str = "/v1/completions";
    const M: &str = "/v1/chat/completions";
    let user = json!([{"role": "user", "content": "mira"}]);
    vec![
        (C, String::new(), 400, "not JSON"),
        (C, "{".into(), 400, "not JSON"),
        (C, "[1, 2".into(), 400, "not JSON"),
        (C, "nul".into(), 400, "not JSON"),
        (C, "[]".into(), 400, "not a JSON object"),
        (C, "\"mira\"".into(), 400, "not a JSON object"),
        (C, "[".repeat(10_000), 400, "not JSON"),
        (C, "{}".into(), 400, "prompt"),
        (C, json!({"prompt": null}).to_string(), 400, "prompt"),
        (C, json!({"prompt": []}).to_string(), 400, "prompt"),
        (C, json!({"prompt": [[]]}).to_string(), 400, "no tokens"),
        (C, json!({"prompt": {"text": "mira"}}).to_string(), 400, "prompt"),
        (C, json!({"prompt": [-1]}).to_string(), 400, "prompt"),
        (C, json!({"prompt": [4_000_000]}).to_string(), 400, "vocabulary"),
        (C, json!({"prompt": ["a", 1]}).to_string(), 400, "prompt"),
        (C, json!({"prompt": vec!["mira"; 129]}).to_string(), 400, "expected 1 to 128"),
        (C, json!({"prompt": vec![1; 4000]}).to_string(), 400, "fit the context"),
        (C, completion(json!({"max_tokens": -1})), 400, "max_tokens"),
        (C, completion(json!({"max_tokens": "2"})), 400, "max_tokens"),
        (C, completion(json!({"max_tokens": 2.5})), 400, "max_tokens"),
        (C, completion(json!({"max_tokens": 0})), 400, "expected at least 1"),
        (C, completion(json!({"max_tokens": 10_000_000_000_u64})), 400, "fit the context"),
        (C, r#"{"prompt": "mira", "max_tokens": 1e400}"#.into(), 400, "out of range"),
        (C, r#"{"prompt": "mira", "max_tokens": 99999999999999999999999}"#.into(), 400, "max_tokens"),
        (C, completion(json!({"n": 0})), 400, "expected 1 to 16"),
        (C, completion(json!({"n": 17})), 400, "expected 1 to 16"),
        (C, completion(json!({"n": true})), 400, "n:"),
        (C, json!({"prompt": vec!["mira"; 128], "n": 3}).to_string(), 400, "the queue holds 256"),
        (C, completion(json!({"temperature": -0.5})), 400, "temperature"),
        (C, completion(json!({"temperature": "hot"})), 400, "temperature"),
        (C, completion(json!({"top_p": 0.0})), 400, "top"),
        (C, completion(json!({"top_p": 1.5})), 400, "top"),
        (C, completion(json!({"top_k": 0})), 400, "top"),
        (C, completion(json!({"logprobs": 21})), 400, "expected 0 to 20"),
        (C, completion(json!({"logprobs": "all"})), 400, "logprobs"),
        (C, completion(json!({"stop": ""})), 400, "stop"),
        (C, completion(json!({"stop": 7})), 400, "stop"),
        (C, completion(json!({"stop": vec!["a"; 17]})), 400, "expected 0 to 16"),
        (C, completion(json!({"seed": "x"})), 400, "seed"),
        (C, completion(json!({"stream": 1})), 400, "stream"),
        (C, completion(json!({"best_of": 3})), 400, "best_of"),
        (C, completion(json!({"suffix": "end"})), 400, "suffix"),
        (C, completion(json!({"presence_penalty": 1})), 400, "presence_penalty"),
        (C, completion(json!({"logit_bias": {"5": 100}})), 400, "logit_bias"),
        (C, completion(json!({"temprature": 0})), 400, "temprature"),
        (C, completion(json!({"model": 5})), 400, "model"),
        (C, completion(json!({"model": "other"})), 404, "no model"),
        (C, completion(json!({"model": "tiny@"})), 404, "no model"),
        (C, completion(json!({"model": "tiny@0"})), 404, "no model"),
        (C, completion(json!({"model": "tiny@99"})), 404, "no model"),
        (C, completion(json!({"model": "../../etc/passwd"})), 404, "no model"),
        (C, completion(json!({"mode": "fastest"})), 400, "unknown mode"),
        (C, completion(json!({"mode": "exit=99"})), 400, "99"),
        (C, completion(json!({"mode": "auto", "model": "tiny@2"})), 400, "mode"),
        (C, completion(json!({"mode": "dynamic", "thresholds": "2:x"})), 400, "threshold"),
        (C, completion(json!({"mode": "dynamic:probe=0.5"})), 400, "probe"),
        (C, completion(json!({"exits": "1..100000,".repeat(1000)})), 400, "expected 0 to 1024"),
        (C, completion(json!({"mode": "auto", "exits": "1..8,1..8"})), 400, "increas"),
        (C, completion(json!({"repetition_penalty": 1e-308})), 400, "0.01 to 100"),
        (C, completion(json!({"thresholds": "0.5"})), 400, "threshold"),
        (C, completion(json!({"mode": "speculative=2", "draft_length": "0"})), 400, "0"),
        (C, completion(json!({"max_ms_per_token": 0})), 400, "max_ms_per_token"),
        (C, completion(json!({"max_ms_per_token": 5, "model": "tiny@2"})), 400, "max_ms_per_token"),
        (M, chat(json!([])), 400, "expected 1 to 1024"),
        (M, chat(json!("mira")), 400, "messages"),
        (M, chat(json!([{"role": "user"}])), 400, "content"),
        (M, chat(json!([{"role": "king", "content": "x"}])), 400, "king"),
        (M, chat(json!([{"role": "user", "content": 5}])), 400, "content"),
        (M, chat(json!([{"role": "user", "content": "x", "tool_calls": [1]}])), 400, "tool_calls"),
        (M, chat(json!([{"role": "user", "content": [{"type": "image_url", "text": ""}]}])), 400, "image_url"),
        (M, json!({"messages": user, "top_logprobs": 2}).to_string(), 400, "logprobs"),
        (M, json!({"messages": user, "tools": [1]}).to_string(), 400, "tools"),
        (M, json!({"messages": user, "response_format": {"type": "json_object"}}).to_string(), 400, "text"),
        (M, json!({"messages": user, "prompt": "x"}).to_string(), 400, "prompt"),
        ("/v1/lens", json!({"prompt": "word ".repeat(100)}).to_string(), 400, "expected 1 to 64"),
        ("/v1/embeddings", "{}".into(), 404, "no such address"),
        ("/v1/models", "{}".into(), 405, "not allowed"),
    ]
}

#[test]
fn bad_bodies_are_refused() {
    let server = Server::start(&["--body-limit", "65536"]);
    let mut wrong = Vec::new();
    for (path, body, status, part) in bad_bodies() {
        let response = server.post_bytes(path, body.as_bytes());
        let found = serde_json::from_str::<Value>(&response.body).unwrap_or_default();
        let message = found["error"]["message"].as_str().unwrap_or_default();
        if response.status != status || !message.contains(part) || message.contains("panicked") {
            let shown: String = body.chars().take(100).collect();
            wrong.push(format!(
                "{path} {shown}: {} {}",
                response.status, response.body
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let answer = server.complete(&greedy("tiny", "mira", 2));
    assert_eq!(answer["usage"]["completion_tokens"], 2);
}

#[test]
fn bad_http_is_refused() {
    let server = Server::start(&["--body-limit", "65536"]);
    let post = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let json = "content-type: application/json\r\n";
    let flood: String = (0..2000).map(|index| format!("x-{index}: y\r\n")).collect();
    let long = "y".repeat(100_000);
    let invalid = [
        &b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            [..],
        b"content-length: 12\r\nconnection: close\r\n\r\n{\"prompt\":\"\xff",
    ]
    .concat();
    let cases: Vec<(Vec<u8>, &[u16])> = vec![
        (b"hello\r\n\r\n".to_vec(), &[400]),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), &[400, 505]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), &[400]),
        (b"GET /../../etc/passwd HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), &[404]),
        (b"GET /v1/models/..%2f..%2fetc HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), &[404]),
        (b"DELETE /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), &[405]),
        (format!("{post}content-type: text/plain\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes(), &[415]),
        (format!("{post}content-length: 2\r\n\r\n{{}}").into_bytes(), &[415]),
        (format!("{post}{json}content-length: -5\r\n\r\n{{}}").into_bytes(), &[400]),
        (format!("{post}{json}content-length: 70000\r\n\r\n{}", "x".repeat(70_000)).into_bytes(), &[413]),
        (format!("{post}{json}transfer-encoding: chunked\r\n\r\nzz\r\n").into_bytes(), &[400]),
        (format!("{post}{flood}\r\n").into_bytes(), &[431]),
        (format!("{post}x: {long}\r\n\r\n").into_bytes(), &[431]),
        (format!("GET /{long} HTTP/1.1\r\n\r\n").into_bytes(), &[414, 431]),
        (invalid, &[400]),
    ];
    for (bytes, statuses) in cases {
        let response = server.raw(&bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        assert!(
            statuses.contains(&response.status),
            "{shown}: {} {}",
            response.status,
            response.body
        );
        assert_eq!(server.get("/health").status, 200, "{shown}");
    }
}

/// Clients that send slowly, or nothing, are answered or dropped in bounded time.
#[test]
fn slow_senders_do_not_hold_the_server() {
    let server = Server::start(&[]);
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 100\r\nconnection: close\r\n\r\n{\"prompt\":";
    let mut slow_body = server.connect();
    slow_body.write_all(head.as_bytes()).unwrap();
    let mut slow_head = server.connect();
    slow_head.write_all(b"GET /v1/models HTT").unwrap();
    // Others are served meanwhile.
    for _ in 0..5 {
        assert_eq!(server.get("/health").status, 200);
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(response(slow_body).status, 408);
    // Closed without an answer, or with a timeout.
    assert!([0, 408].contains(&response(slow_head).status));
    assert_eq!(server.get("/health").status, 200);
}
