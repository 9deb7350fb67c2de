//! A running `soft serve`, and HTTP by hand, so that tests can send what no client would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::programs::{soft, tiny_llama};

/// The exits that the server offers.
pub const EXITS: &str = "2,3,8";

pub struct Server {
    child: Child,
    pub address: String,
}

pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The data of server-sent events.
    pub fn events(&self) -> Vec<String> {
        let lines = self.body.lines();
        let data = lines.filter_map(|line| line.strip_prefix("data: "));
        data.map(str::to_owned).collect()
    }
}

impl Server {
    /// Serves the quickstart's model.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command: Command = soft("serve");
        command.arg("--model").arg(tiny_llama());
        command.args([
            "--name",
            "tiny",
            "--listen",
            "127.0.0.1:0",
            "--exits",
            EXITS,
        ]);
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.split("http://").nth(1).expect(&line);
        let address = address.split('/').next().unwrap().to_owned();
        Self { child, address }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
    }

    /// Asks for a completion and does not wait for it.
    pub fn begin(&self, request: &Value) -> TcpStream {
        let mut stream = self.connect();
        let request = post_request("/v1/completions", request.to_string().as_bytes());
        stream.write_all(&request).unwrap();
        stream
    }

    /// Sends bytes and reads until the server closes the connection.
    pub fn raw(&self, bytes: &[u8]) -> Response {
        let mut stream = self.connect();
        // The server may answer, and close, before it has read all.
        let _ = stream.write_all(bytes);
        response(stream)
    }

    pub fn get(&self, path: &str) -> Response {
        self.raw(
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        )
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Response {
        self.raw(&post_request(path, body))
    }

    /// A completion that must succeed.
    #[track_caller]
    pub fn complete(&self, request: &Value) -> Value {
        let response = self.post("/v1/completions", request);
        assert_eq!(response.status, 200, "{request}: {}", response.body);
        response.json()
    }

    /// A figure of /metrics, 0 if it is absent.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until no answer is being decoded and none waits.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        let begun = Instant::now();
        while self.metric("soft_active_rows") > 0.0 || self.metric("soft_queue_length") > 0.0 {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "rows are not freed"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the server to end.
    pub fn signal(&self) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for the end, and returns whether it was without an error.
    pub fn wait(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn post_request(path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Reads a whole response.
pub fn response(mut stream: TcpStream) -> Response {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    Response {
        status: status.unwrap_or(0),
        head: head.to_owned(),
        body: if chunked {
            unchunked(body)
        } else {
            body.to_owned()
        },
    }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// A greedy completion of `prompt` by the model of this name.
pub fn greedy(model: &str, prompt: &str, max_tokens: usize) -> Value {
    json!({"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0})
}
