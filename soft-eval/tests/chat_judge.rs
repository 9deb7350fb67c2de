//! The chat judge and an HTTP server on loopback, with and without failures.

#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test's way to fail

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use soft_eval::{
    ChatJudge, ChatSettings, Comparison, EvalError, Judge, Pair, Verdict, VerdictFile, judge_pairs,
};

/// The reaction of the server to one request.
#[derive(Clone)]
enum Act {
    Say(&'static str),
    Status(u16, &'static str),
    /// Keeps the connection open without a reply.
    Stall,
    /// Closes the connection within the reply.
    HangUp,
    Raw(&'static str),
}

/// A server with a list of reactions, the last of which is repeated. It keeps the requests.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = requests.clone();
        std::thread::spawn(move || {
            let mut acts = script.iter().cloned();
            let mut act = Act::Say("tie");
            for stream in listener.incoming() {
                act = acts.next().unwrap_or(act);
                let (act, kept) = (act.clone(), kept.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &act, &kept));
            }
        });
        Self { url, requests }
    }

    fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn judge(&self, attempts: u32) -> ChatJudge {
        ChatJudge::new(ChatSettings {
            key: Some("secret".to_owned()),
            timeout: Duration::from_millis(400),
            attempts,
            pause: Duration::from_millis(5),
            ..ChatSettings::new(&self.url, "judge-1")
        })
    }
}

fn serve(mut stream: TcpStream, act: &Act, kept: &Mutex<Vec<String>>) {
    kept.lock().unwrap().push(read_request(&mut stream));
    let reply = |status: u16, body: &str| {
        format!(
            "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let text = match act {
        Act::Say(words) => {
            let body = serde_json::json!({
                "id": "1", "object": "chat.completion",
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": words}}],
            });
            reply(200, &body.to_string())
        }
        Act::Status(status, body) => reply(*status, body),
        Act::Raw(body) => reply(200, body),
        Act::HangUp => reply(200, "{\"choices\": [{}]}")[..90].to_owned(),
        Act::Stall => {
            std::thread::sleep(Duration::from_secs(3));
            return;
        }
    };
    let _ = stream.write_all(text.as_bytes());
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

const COMPARISON: Comparison = Comparison {
    instruction: "Name a colour.",
    input: "",
    first: "Red.",
    second: "Seven.",
};

#[test]
fn asks_as_the_chat_api_wants_it_and_reads_the_reply() {
    let server = Server::new(vec![Act::Say("1\nbecause it is a colour")]);
    let judgement = server.judge(1).compare(&COMPARISON).unwrap();
    assert_eq!(judgement.verdict, Verdict::First);
    assert_eq!(judgement.reply.unwrap(), "1\nbecause it is a colour");
    let request = server.requests.lock().unwrap()[0].clone();
    assert!(
        request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request
            .to_lowercase()
            .contains("authorization: bearer secret")
    );
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&body["model"], &body["temperature"]),
        (&"judge-1".into(), &0.into())
    );
    let content = body["messages"][0]["content"].as_str().unwrap();
    for part in ["Name a colour.", "Response 1:\nRed.", "Response 2:\nSeven."] {
        assert!(content.contains(part), "{content}");
    }
}

#[test]
fn words_that_are_no_verdict_are_unclear() {
    let server = Server::new(vec![Act::Say("As a language model I like both.")]);
    let verdict = server.judge(3).compare(&COMPARISON).unwrap().verdict;
    assert_eq!((verdict, server.asked()), (Verdict::Unclear, 1));
}

#[test]
fn a_pair_that_cannot_be_judged_is_unclear_and_does_not_end_the_run() {
    for act in [
        Act::Status(400, "this model's maximum context length is 512 tokens"),
        Act::Status(413, "too large"),
        Act::Raw(
            "{\"choices\": [{\"message\": {\"content\": null}, \"finish_reason\": \"content_filter\"}]}",
        ),
        Act::Raw(
            "{\"choices\": [{\"message\": {\"content\": null, \"reasoning_content\": \"Response 1 is\"}}]}",
        ),
    ] {
        let server = Server::new(vec![act]);
        let judgement = server.judge(3).compare(&COMPARISON).unwrap();
        assert_eq!((judgement.verdict, server.asked()), (Verdict::Unclear, 1));
        assert!(judgement.reply.is_some());
    }
}

#[test]
fn passing_troubles_are_waited_out() {
    let troubles = [
        Act::Status(503, "busy"),
        Act::Status(429, "slow down"),
        Act::Stall,
        Act::HangUp,
    ];
    for trouble in troubles {
        let server = Server::new(vec![trouble.clone(), trouble, Act::Say("2")]);
        let verdict = server.judge(3).compare(&COMPARISON).unwrap().verdict;
        assert_eq!((verdict, server.asked()), (Verdict::Second, 3));
    }
}

#[test]
fn refusals_are_final_and_quoted() {
    for (act, part) in [
        (
            Act::Status(401, "{\"error\": \"bad key\"}"),
            "status 401: {\"error\": \"bad key\"}",
        ),
        (
            Act::Status(404, "no such model"),
            "status 404: no such model",
        ),
        (
            Act::Raw("<html>hello</html>"),
            "no chat completion in \"<html>",
        ),
    ] {
        let server = Server::new(vec![act]);
        let error = server
            .judge(4)
            .compare(&COMPARISON)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(part) && error.contains("after 1 attempt"),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(server.asked(), 1);
    }
}

#[test]
fn a_server_that_stays_silent_or_is_not_there_is_named() {
    let server = Server::new(vec![Act::Stall]);
    let error = server
        .judge(2)
        .compare(&COMPARISON)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("after 2 attempts") && error.contains("timeout"),
        "{error}"
    );
    let settings = ChatSettings {
        attempts: 1,
        ..ChatSettings::new("http://127.0.0.1:9/v1", "m")
    };
    let error = ChatJudge::new(settings)
        .compare(&COMPARISON)
        .unwrap_err()
        .to_string();
    assert!(error.contains("http://127.0.0.1:9/v1"), "{error}");
}

#[test]
fn a_server_that_dies_half_way_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("verdicts.jsonl");
    let pair = |i: usize| Pair {
        instruction: format!("Instruction {i}"),
        input: String::new(),
        ours: "yes".to_owned(),
        theirs: "no".to_owned(),
    };
    let pairs: Vec<_> = (0..4).map(pair).collect();
    let judge_with = |server: &Server| {
        let mut verdicts = VerdictFile::open(&path, "chat").unwrap();
        judge_pairs(&pairs, Some(&mut server.judge(2)), &mut verdicts, || ())
    };
    let mut script = vec![Act::Say("1"); 5];
    script.push(Act::Status(500, "out of memory"));
    let dying = Server::new(script);
    let error = judge_with(&dying).unwrap_err();
    assert!(matches!(error, EvalError::Judge { .. }), "{error}");
    assert!(error.to_string().contains("out of memory"));
    let healthy = Server::new(vec![Act::Say("2")]);
    let score = judge_with(&healthy).unwrap();
    assert_eq!(healthy.asked(), 3, "five verdicts were kept");
    // The first five verdicts were "1": three wins, two losses. The other three were "2": two wins,
    // one loss.
    assert_eq!((score.wins, score.losses), (5, 3));
    assert_eq!(score.score.estimate, 0.25);
}
