//! A local server that responds like huggingface.co.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use serde_json::json;
use soft_data::{Hub, HubConfig};
use tempfile::TempDir;

pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

/// Contents and behavior of the server.
#[derive(Default)]
pub struct State {
    pub main: String,
    pub commits: BTreeMap<String, Files>,
    /// The required token, and the status of responses without it.
    pub token: Option<(&'static str, u16)>,
    /// A file whose next transfer ends after this number of bytes.
    pub cut: Option<(String, usize)>,
    /// Bytes sent after the next file.
    pub surplus: Vec<u8>,
    pub ignores_ranges: bool,
    pub refuses_ranges: bool,
    /// The status of all responses.
    pub down: Option<u16>,
    pub log: Vec<Request>,
    pub stop: bool,
}

pub struct Server {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(files: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().unwrap().stop {
                    break;
                }
                // Errors of a client do not concern the server.
                stream
                    .and_then(|stream| serve(&shared, address, stream))
                    .ok();
            }
        });
        let thread = Some(thread);
        let server = Self {
            address,
            state,
            thread,
        };
        server.push('a', files);
        server
    }

    /// Sets `main` to a new commit, `digit` forty times.
    pub fn push(&self, digit: char, files: &[(&str, &str)]) -> String {
        let commit: String = std::iter::repeat_n(digit, 40).collect();
        let files = files
            .iter()
            .map(|&(name, text)| (name.to_owned(), text.into()));
        let mut state = self.state();
        state.commits.insert(commit.clone(), files.collect());
        state.main.clone_from(&commit);
        commit
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn config(&self, cache: &TempDir) -> HubConfig {
        HubConfig {
            endpoint: format!("http://{}", self.address),
            ..HubConfig::new(cache.path())
        }
    }

    pub fn hub(&self, cache: &TempDir) -> Hub {
        Hub::new(self.config(cache)).unwrap()
    }

    pub fn stop(&mut self) {
        // Not `state()`, which would panic again if the server has panicked.
        if let Ok(mut state) = self.state.lock() {
            state.stop = true;
        }
        TcpStream::connect(self.address).ok();
        self.thread.take().map(JoinHandle::join);
    }

    pub fn log(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().log)
    }

    /// Files downloaded since the last call.
    pub fn transferred(&self) -> Vec<String> {
        let gets = self
            .log()
            .into_iter()
            .filter(|request| request.method == "GET");
        let mut files: Vec<_> = gets
            .filter_map(|get| Some(resolved(&get.path)?.1.into()))
            .collect();
        files.sort();
        files
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Commit and file of a path `/org/name/resolve/commit/file`.
pub fn resolved(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("/org/name/resolve/")?.split_once('/')
}

pub fn etag(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn serve(state: &Mutex<State>, own: SocketAddr, mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((key, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(key.to_lowercase(), value.trim().to_owned());
    }
    let mut words = first.split(' ').map(str::to_owned);
    let mut word = || words.next().unwrap_or_default();
    let (method, path) = (word(), word());
    let request = Request {
        method,
        path,
        headers,
    };
    let mut state = state.lock().unwrap();
    state.log.push(request.clone());
    let (status, headers, body) = answer(&mut state, own, &request);
    let mut head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\n");
    for (key, value) in headers {
        head += &format!("{key}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&body)?;
    }
    Ok(())
}

type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

fn plain(status: u16, body: &str) -> Answer {
    (
        status,
        vec![("Content-Length", body.len().to_string())],
        body.into(),
    )
}

fn answer(state: &mut State, own: SocketAddr, request: &Request) -> Answer {
    if let Some(status) = state.down {
        return plain(status, "");
    }
    // The host of large files requires no token.
    if let Some(rest) = request.path.strip_prefix("/large/") {
        let (commit, file) = rest.split_once('/').unwrap();
        return bytes(state, commit.to_owned(), file.to_owned(), request, true);
    }
    if let Some(rest) = request.path.strip_prefix("/api/models/old/name") {
        return moved(format!("/api/models/org/name{rest}"), Vec::new());
    }
    if let Some(rest) = request.path.strip_prefix("/old/name") {
        return moved(format!("/org/name{rest}"), Vec::new());
    }
    if let Some((token, status)) = state.token {
        let sent = request
            .headers
            .get("authorization")
            .cloned()
            .unwrap_or_default();
        if sent != format!("Bearer {token}") {
            let (status, mut headers, body) = plain(status, "");
            headers.push(("X-Error-Message", format!("Not with `{sent}`.")));
            return (status, headers, body);
        }
    }
    if let Some(revision) = request.path.strip_prefix("/api/models/org/name/revision/") {
        let commit = if revision == "main" {
            state.main.as_str()
        } else {
            revision
        };
        let Some(files) = state.commits.get(commit) else {
            let (status, mut headers, body) = plain(404, "");
            headers.push(("X-Error-Code", "RevisionNotFound".to_owned()));
            return (status, headers, body);
        };
        let siblings: Vec<_> = files
            .keys()
            .map(|name| json!({"rfilename": name}))
            .collect();
        return plain(
            200,
            &json!({"sha": commit, "siblings": siblings}).to_string(),
        );
    }
    let Some((commit, file)) = resolved(&request.path) else {
        return plain(404, r#"{"error": "Repository not found"}"#);
    };
    let Some(content) = state.commits.get(commit).and_then(|files| files.get(file)) else {
        return plain(404, "Entry not found");
    };
    if file.ends_with(".safetensors") {
        let linked = vec![
            ("X-Linked-Etag", format!("\"{}\"", etag(content))),
            ("X-Linked-Size", content.len().to_string()),
            ("X-Repo-Commit", commit.to_owned()),
            ("ETag", "\"of-the-redirect\"".to_owned()),
        ];
        // `localhost` counts as another host.
        let place = format!("http://localhost:{}/large/{commit}/{file}", own.port());
        return moved(place, linked);
    }
    bytes(state, commit.to_owned(), file.to_owned(), request, false)
}

fn moved(to: String, mut headers: Vec<(&'static str, String)>) -> Answer {
    headers.extend([("Location", to), ("Content-Length", "0".to_owned())]);
    (302, headers, Vec::new())
}

fn bytes(
    state: &mut State,
    commit: String,
    file: String,
    request: &Request,
    large: bool,
) -> Answer {
    if state.refuses_ranges && request.headers.contains_key("range") {
        return plain(416, "");
    }
    let content = state.commits[&commit][&file].clone();
    let range = request
        .headers
        .get("range")
        .filter(|_| !state.ignores_ranges);
    let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let start: usize = start.map_or(0, |start| start.parse().unwrap());
    let mut headers = vec![("Content-Length", (content.len() - start).to_string())];
    if !large {
        headers.push(("ETag", format!("W/\"{}\"", etag(&content))));
        headers.push(("X-Repo-Commit", commit));
    }
    if start > 0 {
        let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
        headers.push(("Content-Range", range));
    }
    let mut body = content[start..].to_vec();
    if request.method == "GET" {
        if !state.surplus.is_empty() {
            // Without a length, the body ends with the connection.
            headers.remove(0);
            body.append(&mut state.surplus);
        }
        if let Some((_, end)) = state.cut.take_if(|(cut, _)| *cut == file) {
            body.truncate(end);
        }
    }
    (if start > 0 { 206 } else { 200 }, headers, body)
}
