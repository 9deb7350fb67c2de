//! `soft serve`: answers are those of `soft generate`, whatever runs beside them; limits hold; bad
//! requests are refused and change nothing.

#![allow(clippy::unwrap_used)] // tests fail by panicking

#[path = "../programs/mod.rs"]
mod programs;

mod bad_requests;
mod server;

use std::io::Read;
use std::thread;
use std::time::Duration;

use programs::{soft, tiny_llama};
use serde_json::{Value, json};
use server::{EXITS, Server, greedy, response};

const PROMPTS: [&str; 4] = [
    "question : repeat the words soup kale carrot honey . answer :",
    "question : mira taro ? answer :",
    "mira",
    "question : repeat the words honey honey . answer : honey",
];

/// Tokens and exits of `soft generate` in this mode.
fn offline(mode: &str, prompt: &str, max_tokens: usize) -> (Value, Value) {
    let mut command = soft("generate");
    command.arg("--model").arg(tiny_llama());
    command.args(["--json", "--mode", mode, "--prompt", prompt]);
    if ["auto", "speculative", "dynamic"].contains(&mode) {
        command.args(["--exits", EXITS]);
    }
    command.args(["--max-new-tokens", &max_tokens.to_string()]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let answer: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    (answer["tokens"].clone(), answer["exits"].clone())
}

/// The names of the model, and the modes that they stand for.
const MODES: [(&str, &str); 6] = [
    ("tiny", "full"),
    ("tiny@2", "exit=2"),
    ("tiny@3", "exit=3"),
    ("tiny@auto", "auto"),
    ("tiny@speculative", "speculative"),
    ("tiny@dynamic", "dynamic"),
];

#[test]
fn answers_beside_others_are_those_of_soft_generate() {
    let server = Server::start(&["--rows", "3", "--prompt-chunk", "4"]);
    let asked: Vec<_> = MODES
        .iter()
        .flat_map(|mode| PROMPTS.iter().map(move |prompt| (mode, *prompt)))
        .collect();
    let found: Vec<Value> = thread::scope(|scope| {
        let ask = |(mode, prompt): &(&(&str, &str), &str)| {
            let request = greedy(mode.0, prompt, 12);
            let server = &server;
            scope.spawn(move || server.complete(&request))
        };
        let running: Vec<_> = asked.iter().map(ask).collect();
        running
            .into_iter()
            .map(|answer| answer.join().unwrap())
            .collect()
    });
    for (((name, mode), prompt), found) in asked.iter().zip(&found) {
        let (tokens, exits) = offline(mode, prompt, 12);
        let choice = &found["choices"][0];
        assert_eq!(choice["token_ids"], tokens, "{name}: {prompt}");
        if *mode != "auto" && *mode != "speculative" {
            assert_eq!(choice["exits"], exits, "{name}: {prompt}");
        }
        let count = tokens.as_array().unwrap().len();
        assert_eq!(found["usage"]["completion_tokens"], json!(count));
    }
    server.wait_until_idle();
    assert!(server.metric("soft_tokens_total{exit=\"2\"}") > 0.0);
    assert_eq!(server.metric("soft_answers_total{end=\"failed\"}"), 0.0);
}

#[test]
fn sampled_answers_depend_on_their_seed_alone() {
    let server = Server::start(&["--rows", "4"]);
    let ask = |seed: u64, n: usize| {
        let request = json!({
            "prompt": PROMPTS[1], "max_tokens": 8, "temperature": 1.2, "seed": seed, "n": n,
            "model": "tiny@speculative",
        });
        let response = server.complete(&request);
        let choices = response["choices"].as_array().unwrap().clone();
        choices
            .into_iter()
            .map(|choice| choice["token_ids"].clone())
            .collect::<Vec<_>>()
    };
    let three = ask(5, 3);
    assert_eq!(three.len(), 3);
    assert_eq!([ask(5, 1), ask(6, 1), ask(7, 1)].concat(), three);
    assert!(three[0] != three[1] || three[1] != three[2]);
}

#[test]
fn prompts_are_echoed_and_scored() {
    let server = Server::start(&[]);
    let mut request = greedy("tiny@2", PROMPTS[0], 0);
    request["echo"] = json!(true);
    request["logprobs"] = json!(2);
    let alone = server.complete(&request);
    request["max_tokens"] = json!(3);
    let longer = server.complete(&request);
    let scores = |response: &Value| response["choices"][0]["logprobs"].clone();
    let (alone, longer) = (scores(&alone), scores(&longer));
    let count = alone["tokens"].as_array().unwrap().len();
    assert!(count > 8 && alone["token_logprobs"][0].is_null());
    for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let (alone, longer) = (
            alone[key].as_array().unwrap(),
            longer[key].as_array().unwrap(),
        );
        assert_eq!(alone.len(), count);
        assert!(
            longer.len() > count && longer[..count] == alone[..],
            "{key}"
        );
    }
    // A greedy token is the most probable one.
    let greedy = longer["token_logprobs"][count].as_f64().unwrap();
    let top = longer["top_logprobs"][count].as_object().unwrap();
    assert!(top.values().all(|other| other.as_f64().unwrap() <= greedy));
    assert!(greedy < 0.0);
}

/// As other servers do, and lm-evaluation-harness expects: the token that ends an answer is scored
/// with it.
#[test]
fn the_stop_token_is_scored() {
    let server = Server::start(&[]);
    let mut request = greedy("tiny", PROMPTS[0], 60);
    request["logprobs"] = json!(0);
    let whole = server.complete(&request);
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    let tokens = choice["logprobs"]["token_logprobs"].as_array().unwrap();
    assert_eq!(
        tokens.len(),
        choice["token_ids"].as_array().unwrap().len() + 1
    );
    request["stream"] = json!(true);
    let streamed = server.post("/v1/completions", &request);
    let events = streamed
        .events()
        .into_iter()
        .filter(|event| event != "[DONE]");
    let scored = events.map(|event| {
        let event: Value = serde_json::from_str(&event).unwrap();
        event["choices"][0]["logprobs"]["token_logprobs"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    });
    assert_eq!(scored.flatten().collect::<Vec<_>>(), *tokens);
}

#[test]
fn streams_give_the_same_text_and_end() {
    let server = Server::start(&[]);
    let messages = json!([{"role": "user", "content": "repeat the words kale soup ."}]);
    let mut request = json!({"messages": messages, "max_tokens": 10, "temperature": 0, "n": 2});
    let whole = server.post("/v1/chat/completions", &request).json();
    request["stream"] = json!(true);
    request["stream_options"] = json!({"include_usage": true});
    let streamed = server.post("/v1/chat/completions", &request);
    assert!(
        streamed.head.contains("text/event-stream"),
        "{}",
        streamed.head
    );
    let mut events = streamed.events();
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let mut events: Vec<Value> = events
        .iter()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    assert_eq!(events.pop().unwrap()["usage"], whole["usage"]);
    for index in 0..2 {
        let of_choice = || {
            events
                .iter()
                .map(|event| &event["choices"][0])
                .filter(|it| it["index"] == index)
        };
        let text: String = of_choice()
            .filter_map(|it| it["delta"]["content"].as_str())
            .collect();
        let choice = &whole["choices"][index];
        assert_eq!(text, choice["message"]["content"]);
        let exits: Vec<Value> = of_choice()
            .flat_map(|it| it["exits"].as_array().unwrap().clone())
            .collect();
        assert_eq!(json!(exits), choice["exits"]);
        assert_eq!(
            of_choice().next_back().unwrap()["finish_reason"],
            choice["finish_reason"]
        );
    }
}

#[test]
fn stop_strings_and_budgets_are_kept() {
    let server = Server::start(&[]);
    let free = server.complete(&greedy("tiny", PROMPTS[0], 12));
    let text = free["choices"][0]["text"].as_str().unwrap().to_owned();
    let word = text.split_whitespace().nth(1).unwrap();
    let mut request = greedy("tiny", PROMPTS[0], 12);
    request["stop"] = json!([word]);
    let stopped = &server.complete(&request)["choices"][0];
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(
        stopped["text"].as_str().unwrap(),
        &text[..text.find(word).unwrap()]
    );

    let mut request = greedy("tiny", PROMPTS[0], 4);
    request["max_ms_per_token"] = json!(1e6);
    let deep = server.complete(&request);
    assert_eq!(
        deep["choices"][0]["token_ids"],
        json!(offline("full", PROMPTS[0], 4).0)
    );
    request["max_ms_per_token"] = json!(1e-9);
    let refused = server.post("/v1/completions", &request);
    assert_eq!(refused.status, 400);
    assert!(
        refused.body.contains("no exit takes at most"),
        "{}",
        refused.body
    );
}

/// A streamed answer of 100 tokens.
fn long_stream() -> Value {
    let mut long = greedy("tiny", "mira", 100);
    long["ignore_eos"] = json!(true);
    long["stream"] = json!(true);
    long
}

/// One row and a queue of one: the third request is refused, and a client that hangs up makes room.
#[test]
fn rows_are_freed_and_queues_are_bounded() {
    let server = Server::start(&["--rows", "1", "--queue", "1"]);
    let long = long_stream();
    // Fills the row and the queue again and again; clients hang up in mid-answer.
    let mut refused = 0;
    for _ in 0..20 {
        let mut streams: Vec<_> = (0..6).map(|_| server.begin(&long)).collect();
        let mut byte = [0];
        streams[0].read_exact(&mut byte).unwrap();
        streams.truncate(4);
        drop(streams.remove(0));
        for stream in streams {
            let response = response(stream);
            assert!([200, 429].contains(&response.status), "{}", response.body);
            if response.status == 429 {
                assert!(response.head.contains("retry-after"), "{}", response.head);
                refused += 1;
            }
        }
        server.wait_until_idle();
    }
    assert!(refused > 0);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn what_waits_too_long_is_refused() {
    let server = Server::start(&["--time-limit", "0"]);
    let response = server.post("/v1/completions", &greedy("tiny", "mira", 2));
    assert_eq!(response.status, 503, "{}", response.body);
    assert!(
        response.body.contains("no row was free"),
        "{}",
        response.body
    );
    assert_eq!(server.get("/health").status, 200);
}

/// A client that waits for a whole response may hang up too.
#[test]
fn whole_responses_end_with_their_client() {
    let server = Server::start(&["--rows", "1"]);
    let mut long = greedy("tiny", "mira", 100);
    long["ignore_eos"] = json!(true);
    long["n"] = json!(16);
    let ended = |end| server.metric(&format!("soft_answers_total{{end=\"{end}\"}}"));
    // On a loaded machine the answers may end before the client hangs up.
    for _ in 0..20 {
        let before = ended("length");
        let stream = server.begin(&long);
        thread::sleep(Duration::from_millis(10));
        drop(stream);
        server.wait_until_idle();
        if ended("abandoned") > 0.0 && ended("length") < before + 15.0 {
            return;
        }
    }
    panic!("no answer was abandoned");
}

#[test]
fn keys_and_hosts_are_checked() {
    let elsewhere = soft("serve")
        .arg("--model")
        .arg(tiny_llama())
        .args(["--listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    let error = String::from_utf8(elsewhere.stderr).unwrap();
    assert!(
        !elsewhere.status.success() && error.contains("--api-key"),
        "{error}"
    );

    let server = Server::start(&["--api-key", "s3cret"]);
    let get = |headers: &str| {
        server.raw(
            format!("GET /v1/models HTTP/1.1\r\n{headers}connection: close\r\n\r\n").as_bytes(),
        )
    };
    let right = "authorization: Bearer s3cret\r\n";
    assert_eq!(get("host: localhost\r\n").status, 401);
    assert_eq!(
        get("host: localhost\r\nauthorization: Bearer s3cre7\r\n").status,
        401
    );
    assert_eq!(get(&format!("host: localhost\r\n{right}")).status, 200);
    // A key is as good as a name.
    assert_eq!(get(&format!("host: evil.example\r\n{right}")).status, 200);
    let open = Server::start(&[]);
    for (host, status) in [
        ("localhost:80", 200),
        ("127.0.0.1", 200),
        ("evil.example", 403),
        ("[::1]", 403),
    ] {
        let request =
            format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert_eq!(open.raw(request.as_bytes()).status, status, "{host}");
    }
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_shutdown_finishes_running_answers() {
    let mut server = Server::start(&[]);
    let stream = server.begin(&long_stream());
    // The answer has begun.
    stream.peek(&mut [0]).unwrap();
    server.signal();
    let response = response(stream);
    assert_eq!(
        response.events().last().map(String::as_str),
        Some("[DONE]"),
        "{}",
        response.body
    );
    assert!(server.wait());
}

#[test]
fn the_lens_shows_every_depth() {
    let server = Server::start(&[]);
    let view = server
        .post("/v1/lens", &json!({"prompt": PROMPTS[0]}))
        .json();
    let tokens = view["tokens"].as_array().unwrap().len();
    let depths = view["depths"].as_array().unwrap();
    for (index, depth) in depths.iter().enumerate() {
        assert_eq!(depth["depth"], json!(index + 1));
        assert_eq!(depth["tokens"].as_array().unwrap().len(), tokens);
    }
    // Its last row and column is the first token of a greedy answer.
    let mut request = greedy("tiny", PROMPTS[0], 1);
    request["logprobs"] = json!(1);
    let answer = server.complete(&request);
    let logprobs = &answer["choices"][0]["logprobs"];
    let last = &depths[depths.len() - 1];
    assert_eq!(last["tokens"][tokens - 1], logprobs["tokens"][0]);
    let probability = last["probabilities"][tokens - 1].as_f64().unwrap();
    let logprob = logprobs["token_logprobs"][0].as_f64().unwrap();
    assert!((probability.ln() - logprob).abs() < 1e-4);
}
