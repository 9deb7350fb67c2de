//! Downloads from a local server that responds like huggingface.co.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's way to fail

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use serde_json::json;
use soft_data::{Hub, HubConfig, HubError, HubFolder, HubName, Missing};
use tempfile::TempDir;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Debug, PartialEq)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

/// Contents and behavior of the server.
#[derive(Default)]
struct State {
    main: String,
    commits: BTreeMap<String, Files>,
    /// The required token, and the status of responses without it.
    token: Option<(&'static str, u16)>,
    /// A file whose next transfer ends after this number of bytes.
    cut: Option<(String, usize)>,
    /// Bytes sent after the next file.
    surplus: Vec<u8>,
    ignores_ranges: bool,
    refuses_ranges: bool,
    /// The status of all responses.
    down: Option<u16>,
    log: Vec<Request>,
    stop: bool,
}

struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(files: &[(&str, &str)]) -> Self {
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
    fn push(&self, digit: char, files: &[(&str, &str)]) -> String {
        let commit: String = std::iter::repeat_n(digit, 40).collect();
        let files = files
            .iter()
            .map(|&(name, text)| (name.to_owned(), text.into()));
        let mut state = self.state();
        state.commits.insert(commit.clone(), files.collect());
        state.main.clone_from(&commit);
        commit
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn config(&self, cache: &TempDir) -> HubConfig {
        HubConfig {
            endpoint: format!("http://{}", self.address),
            ..HubConfig::new(cache.path())
        }
    }

    fn hub(&self, cache: &TempDir) -> Hub {
        Hub::new(self.config(cache)).unwrap()
    }

    fn stop(&mut self) {
        // Not `state()`, which would panic again if the server has panicked.
        if let Ok(mut state) = self.state.lock() {
            state.stop = true;
        }
        TcpStream::connect(self.address).ok();
        self.thread.take().map(JoinHandle::join);
    }

    fn log(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().log)
    }

    /// Files downloaded since the last call.
    fn transferred(&self) -> Vec<String> {
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
fn resolved(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("/org/name/resolve/")?.split_once('/')
}

fn etag(content: &[u8]) -> String {
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

const CONFIG: (&str, &str) = ("config.json", "{}");
const TOKENIZER: (&str, &str) = ("tokenizer.json", r#"{"model": {}}"#);
const WEIGHTS: (&str, &str) = (SINGLE, "the weights of a tiny model");
const TINY: [(&str, &str); 3] = [CONFIG, TOKENIZER, WEIGHTS];

fn main_of_tiny() -> HubName {
    "org/name".parse().unwrap()
}

fn folder(hub: &Hub) -> Result<HubFolder, HubError> {
    hub.folder(&main_of_tiny(), &mut |_| ())
}

fn offline(cache: &TempDir) -> Hub {
    let config = HubConfig {
        offline: true,
        ..HubConfig::new(cache.path())
    };
    Hub::new(config).unwrap()
}

fn repo(cache: &TempDir) -> std::path::PathBuf {
    cache.path().join("models--org--name")
}

fn text(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap()
}

#[test]
fn a_model_comes_into_the_cache_and_only_what_is_read_of_it() {
    let more = [
        ("README.md", "x"),
        ("pytorch_model.bin", "x"),
        ("tf_model.h5", "x"),
        ("optimizer.pt", "x"),
        ("LICENSE", "MIT"),
        ("adapter/adapter_config.json", "{\"r\": 1}"),
        ("adapter/adapter_model.safetensors", "factors"),
        ("exit_heads.safetensors", "heads"),
    ];
    let server = Server::start(&[&TINY[..], &more].concat());
    let cache = TempDir::new().unwrap();
    let mut shown = Vec::new();
    let mut progress = |progress: soft_data::HubProgress<'_>| {
        shown.push((progress.file.to_owned(), progress.bytes, progress.total));
    };
    let found = server
        .hub(&cache)
        .folder(&main_of_tiny(), &mut progress)
        .unwrap();

    let needed = [
        "LICENSE",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "config.json",
        "exit_heads.safetensors",
        SINGLE,
        "tokenizer.json",
    ];
    let mut fetched = found.fetched.clone();
    fetched.sort();
    assert_eq!(fetched, needed);
    assert_eq!(fetched, server.transferred());
    // Weights come last, so that a snapshot with weights is complete.
    assert_eq!(found.fetched.last().unwrap(), SINGLE);
    assert_eq!(found.unreachable, None);

    let commit = "a".repeat(40);
    assert_eq!(found.commit, commit);
    assert_eq!(found.path, repo(&cache).join("snapshots").join(&commit));
    assert_eq!(text(&repo(&cache), "refs/main"), commit);
    assert_eq!(text(&found.path, SINGLE), WEIGHTS.1);
    assert_eq!(
        text(&found.path, "adapter/adapter_model.safetensors"),
        "factors"
    );
    let blob = repo(&cache).join("blobs").join(etag(WEIGHTS.1.as_bytes()));
    let same = fs::canonicalize(found.path.join(SINGLE)).unwrap();
    assert_eq!(same, fs::canonicalize(&blob).unwrap());
    let blobs = fs::read_dir(repo(&cache).join("blobs")).unwrap().count();
    assert_eq!(blobs, needed.len());

    for file in needed {
        let of_file: Vec<_> = shown.iter().filter(|(name, ..)| name == file).collect();
        let (_, _, total) = of_file[0];
        assert_eq!(of_file[0].1, 0);
        assert_eq!(of_file.last().unwrap().1, *total, "{file}");
    }
}

#[test]
fn what_the_cache_has_is_not_transferred_again() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    let first = folder(&server.hub(&cache)).unwrap();
    server.log();
    let again = folder(&server.hub(&cache)).unwrap();
    assert_eq!(again.path, first.path);
    assert_eq!(again.fetched, Vec::<String>::new());
    let paths: Vec<_> = server
        .log()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert_eq!(paths, ["/api/models/org/name/revision/main"]);

    let name = format!("org/name@{}", first.commit).parse().unwrap();
    let pinned = server.hub(&cache).folder(&name, &mut |_| ()).unwrap();
    assert_eq!(pinned.path, first.path);
    assert_eq!(server.transferred(), Vec::<String>::new());
    assert!(!repo(&cache).join("refs").join(&first.commit).exists());
}

#[test]
fn a_moved_branch_is_fetched_again_but_only_what_changed() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    let old = folder(&server.hub(&cache)).unwrap();
    let commit = server.push('b', &[CONFIG, TOKENIZER, (SINGLE, "better weights")]);
    server.log();
    let new = folder(&server.hub(&cache)).unwrap();
    assert_eq!(new.commit, commit);
    assert_eq!(new.fetched, [SINGLE]);
    assert_eq!(server.transferred(), [SINGLE]);
    assert_eq!(text(&new.path, SINGLE), "better weights");
    assert_eq!(text(&new.path, "tokenizer.json"), TOKENIZER.1);
    assert_eq!(text(&old.path, SINGLE), WEIGHTS.1);
    assert_eq!(folder(&offline(&cache)).unwrap().commit, commit);
}

#[test]
fn a_renamed_model_is_followed() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    let old = "old/name".parse().unwrap();
    let found = server.hub(&cache).folder(&old, &mut |_| ()).unwrap();
    assert_eq!(text(&found.path, SINGLE), WEIGHTS.1);
    assert!(
        found
            .path
            .starts_with(cache.path().join("models--old--name"))
    );
}

#[test]
fn shards_are_those_of_the_index() {
    let index = json!({"metadata": {}, "weight_map": {
        "a": "model-1-of-2.safetensors",
        "b": "model-2-of-2.safetensors",
        "c": "model-1-of-2.safetensors",
    }});
    let index = index.to_string();
    let shards = [
        (INDEX, index.as_str()),
        ("model-1-of-2.safetensors", "one"),
        ("model-2-of-2.safetensors", "two"),
        ("consolidated.safetensors", "not named"),
    ];
    let server = Server::start(&[&[CONFIG][..], &shards].concat());
    let cache = TempDir::new().unwrap();
    let found = folder(&server.hub(&cache)).unwrap();
    let names = ["config.json", INDEX, shards[1].0, shards[2].0];
    assert_eq!(found.fetched, names);
    assert_eq!(text(&found.path, shards[2].0), "two");
    folder(&offline(&cache)).unwrap();

    fs::remove_file(found.path.join(shards[1].0)).unwrap();
    let error = folder(&offline(&cache)).unwrap_err();
    let HubError::Offline {
        missing: Missing::Files { files, .. },
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(files, &[shards[1].0]);
    assert!(error.to_string().contains(shards[1].0), "{error}");
    // The blob still exists.
    assert_eq!(
        folder(&server.hub(&cache)).unwrap().fetched,
        Vec::<String>::new()
    );
    folder(&offline(&cache)).unwrap();
    // A link without its blob does not count.
    fs::remove_file(fs::canonicalize(found.path.join(shards[1].0)).unwrap()).unwrap();
    folder(&offline(&cache)).unwrap_err();
    assert_eq!(folder(&server.hub(&cache)).unwrap().fetched, [shards[1].0]);
    folder(&offline(&cache)).unwrap();
}

#[test]
fn an_index_that_leads_astray_is_refused() {
    for (shard, expected) in [
        ("../../../x.safetensors", "weight_map"),
        ("pytorch_model.bin", "weight_map"),
        ("model-9.safetensors", "model-9.safetensors, which"),
    ] {
        let index = json!({"weight_map": {"a": shard}}).to_string();
        let files = [CONFIG, (INDEX, &index), ("pytorch_model.bin", "x")];
        let server = Server::start(&files);
        let cache = TempDir::new().unwrap();
        let error = folder(&server.hub(&cache)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(server.transferred(), ["config.json", INDEX]);
    }
}

#[test]
fn pickles_are_refused_before_anything_is_fetched() {
    let server = Server::start(&[CONFIG, TOKENIZER, ("pytorch_model.bin", "x")]);
    let cache = TempDir::new().unwrap();
    let error = folder(&server.hub(&cache)).unwrap_err();
    assert!(matches!(error, HubError::OnlyPickle { .. }), "{error}");
    assert!(error.to_string().contains("pytorch_model.bin"), "{error}");
    assert_eq!(server.transferred(), Vec::<String>::new());
}

#[test]
fn unknown_models_and_revisions_are_told_apart() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    for (name, expected) in [
        ("org/other", "a model with this revision"),
        ("org/name@v2", "revision `v2`"),
    ] {
        let name = name.parse().unwrap();
        let error = server.hub(&cache).folder(&name, &mut |_| ()).unwrap_err();
        assert!(
            matches!(error, HubError::NotFound { status: 404, .. }),
            "{error}"
        );
        let error = error.to_string();
        assert!(
            error.contains(&name.to_string()) && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn a_token_is_sent_to_the_hub_and_shown_to_nobody() {
    for status in [401, 403] {
        let server = Server::start(&TINY);
        server.state().token = Some(("hf_right", status));
        let cache = TempDir::new().unwrap();
        let error = folder(&server.hub(&cache)).unwrap_err();
        assert!(matches!(error, HubError::NeedsToken { .. }), "{error}");
        let expected = format!("needs a token, found none (status {status}");
        assert!(error.to_string().contains(&expected), "{error}");

        let with = |token: &str| {
            let token = Some(token.to_owned());
            let config = HubConfig {
                token,
                ..server.config(&cache)
            };
            Hub::new(config).unwrap()
        };
        // The server repeats the token in its message.
        let wrong = with("hf_wrong");
        let error = folder(&wrong).unwrap_err();
        assert!(matches!(error, HubError::TokenRefused { .. }), "{error}");
        assert!(
            error.to_string().contains("Not with `Bearer [token]`."),
            "{error}"
        );
        for shown in [format!("{error} {error:?}"), format!("{wrong:?}")] {
            assert!(!shown.contains("hf_wrong"), "{shown}");
        }

        server.log();
        folder(&with("hf_right")).unwrap();
        let log = server.log();
        assert!(
            log.iter()
                .any(|request| request.path.starts_with("/large/"))
        );
        for request in log {
            let sent = request.headers.get("authorization").map(String::as_str);
            let other_host = request.path.starts_with("/large/");
            assert_eq!(
                sent,
                (!other_host).then_some("Bearer hf_right"),
                "{}",
                request.path
            );
        }
    }
}

/// For every file, after zero bytes and after one.
#[test]
fn a_cut_connection_leaves_nothing_that_looks_complete_and_is_resumed() {
    for (file, content) in TINY {
        for end in [0, 1] {
            let server = Server::start(&TINY);
            let cache = TempDir::new().unwrap();
            server.state().cut = Some((file.to_owned(), end));
            let error = folder(&server.hub(&cache)).unwrap_err();
            let HubError::Cut {
                file: cut,
                expected,
                found,
                ..
            } = &error
            else {
                panic!("{error}");
            };
            assert_eq!((cut.as_str(), *found as usize), (file, end));
            assert_eq!(*expected as usize, content.len());
            let snapshot = repo(&cache).join("snapshots").join("a".repeat(40));
            assert!(fs::symlink_metadata(snapshot.join(file)).is_err());
            assert!(!repo(&cache).join("refs/main").exists());
            folder(&offline(&cache)).unwrap_err();

            server.log();
            let found = folder(&server.hub(&cache)).unwrap();
            assert_eq!(found.fetched.first().unwrap(), file);
            assert_eq!(text(&found.path, file), content);
            let log = server.log();
            let sent = |request: &Request| request.headers.get("range").cloned();
            let ranges: Vec<_> = log.iter().filter_map(sent).collect();
            assert!(ranges.iter().all(|range| range == &format!("bytes={end}-")));
            assert_eq!(ranges.is_empty(), end == 0);
            folder(&offline(&cache)).unwrap();
        }
    }
}

#[test]
fn a_server_without_ranges_makes_it_start_anew() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    server.state().cut = Some((SINGLE.to_owned(), 20));
    folder(&server.hub(&cache)).unwrap_err();
    server.state().ignores_ranges = true;
    // Cut again, and shorter: the earlier bytes must not be mixed with these.
    server.state().cut = Some((SINGLE.to_owned(), 3));
    let error = folder(&server.hub(&cache)).unwrap_err();
    assert!(matches!(error, HubError::Cut { found: 3, .. }), "{error}");
    server.state().refuses_ranges = true;
    let found = folder(&server.hub(&cache)).unwrap();
    assert_eq!(text(&found.path, SINGLE), WEIGHTS.1);
}

#[test]
fn bodies_without_length_are_held_to_the_size_of_the_file() {
    let server = Server::start(&[CONFIG, WEIGHTS]);
    let cache = TempDir::new().unwrap();
    server.state().surplus = b"more".to_vec();
    let error = folder(&server.hub(&cache)).unwrap_err();
    assert!(error.to_string().contains("more came"), "{error}");
    // The surplus, cut to one byte less than the file.
    server.state().surplus = b"?".to_vec();
    server.state().cut = Some(("config.json".to_owned(), 1));
    let error = folder(&server.hub(&cache)).unwrap_err();
    assert!(
        matches!(
            error,
            HubError::Cut {
                found: 1,
                expected: 2,
                ..
            }
        ),
        "{error}"
    );
    let found = folder(&server.hub(&cache)).unwrap();
    assert_eq!(text(&found.path, "config.json"), CONFIG.1);
}

/// Files left by a killed process (complete but not renamed) or by another program.
#[test]
fn left_over_files_are_taken_or_thrown_away() {
    for (left, transferred) in [(WEIGHTS.1.to_owned(), 0), (format!("{}!", WEIGHTS.1), 1)] {
        let server = Server::start(&TINY);
        let cache = TempDir::new().unwrap();
        let blobs = repo(&cache).join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        let name = format!("{}.soft.incomplete", etag(WEIGHTS.1.as_bytes()));
        fs::write(blobs.join(&name), left).unwrap();
        let found = folder(&server.hub(&cache)).unwrap();
        assert_eq!(text(&found.path, SINGLE), WEIGHTS.1);
        let files = server.transferred();
        assert_eq!(
            files.iter().filter(|&file| file == SINGLE).count(),
            transferred
        );
        assert!(!blobs.join(&name).exists());
    }
}

#[test]
fn a_blob_of_another_size_is_fetched_again() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    let blobs = repo(&cache).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(etag(WEIGHTS.1.as_bytes())), "half").unwrap();
    let found = folder(&server.hub(&cache)).unwrap();
    assert_eq!(text(&found.path, SINGLE), WEIGHTS.1);
}

#[test]
fn two_at_once_transfer_once() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(|| folder(&server.hub(&cache)).unwrap()));
        for thread in threads {
            let found = thread.join().unwrap();
            assert_eq!(text(&found.path, SINGLE), WEIGHTS.1);
        }
    });
    assert_eq!(
        server.transferred(),
        ["config.json", SINGLE, "tokenizer.json"]
    );
}

#[test]
fn offline_asks_nobody() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    let hub = Hub::new(HubConfig {
        offline: true,
        ..server.config(&cache)
    })
    .unwrap();
    let error = folder(&hub).unwrap_err();
    let HubError::Offline {
        missing: Missing::Revision { expected },
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(expected, &repo(&cache).join("refs/main"));
    assert!(error.to_string().contains("offline"), "{error}");

    let online = folder(&server.hub(&cache)).unwrap();
    server.log();
    let found = folder(&hub).unwrap();
    assert_eq!((found.path, found.unreachable), (online.path.clone(), None));
    let pinned = format!("org/name@{}", online.commit).parse().unwrap();
    assert_eq!(hub.folder(&pinned, &mut |_| ()).unwrap().path, online.path);
    assert_eq!(server.log(), []);

    for file in ["config.json", SINGLE] {
        fs::remove_file(online.path.join(file)).unwrap();
        let error = folder(&hub).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
    }
}

/// A hub that is down, and one that is gone.
#[test]
fn a_hub_that_does_not_answer_is_replaced_by_a_complete_cache() {
    let mut server = Server::start(&TINY);
    let (filled, empty) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let online = folder(&server.hub(&filled)).unwrap();

    let check = |server: &Server, cause: &str| {
        let found = folder(&server.hub(&filled)).unwrap();
        assert_eq!((&found.path, &found.commit), (&online.path, &online.commit));
        let unreachable = found.unreachable.unwrap();
        assert!(unreachable.contains(cause), "{unreachable}");
        let error = folder(&server.hub(&empty)).unwrap_err();
        assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
        let error = error.to_string();
        for part in [&server.address.to_string(), "refs", cause] {
            assert!(error.contains(part), "{error}");
        }
    };
    server.state().down = Some(503);
    check(&server, "503");
    server.stop();
    check(&server, "");
}

#[test]
fn a_hub_that_forgot_a_model_is_believed_though_the_cache_has_it() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    folder(&server.hub(&cache)).unwrap();
    server.state().commits.clear();
    let error = folder(&server.hub(&cache)).unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error}");
}

#[test]
fn answers_that_would_become_other_paths_are_refused() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    let files = server.state().commits["a".repeat(40).as_str()].clone();
    server
        .state()
        .commits
        .insert("../../../x".to_owned(), files);
    server.state().main = "../../../x".to_owned();
    let error = folder(&server.hub(&cache)).unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error}");

    // The content of the cache is not trusted either.
    fs::create_dir_all(repo(&cache).join("refs")).unwrap();
    fs::write(repo(&cache).join("refs/main"), "../../../x").unwrap();
    folder(&offline(&cache)).unwrap_err();
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let config = HubConfig::new("cache");
    for endpoint in ["", "huggingface.co", "ftp://x", "https://"] {
        let endpoint = endpoint.to_owned();
        let error = Hub::new(HubConfig {
            endpoint,
            ..config.clone()
        })
        .unwrap_err();
        assert!(error.to_string().contains("https://"), "{error}");
    }
    for token in ["", "a b", "secret\n"] {
        let token = Some(token.to_owned());
        let error = Hub::new(HubConfig {
            token,
            ..config.clone()
        })
        .unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("token") && !error.contains("secret"),
            "{error}"
        );
    }
}

/// Other programs leave files named `{etag}.incomplete` that are not written from the start, such
/// as parallel downloads: of full size, or shorter, with holes.
#[test]
fn unfinished_files_of_other_programs_are_not_gone_on_with() {
    for holes in [WEIGHTS.1.len(), 10] {
        let server = Server::start(&TINY);
        let cache = TempDir::new().unwrap();
        let blobs = repo(&cache).join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        let other = blobs.join(format!("{}.incomplete", etag(WEIGHTS.1.as_bytes())));
        fs::write(&other, vec![0; holes]).unwrap();
        let found = folder(&server.hub(&cache)).unwrap();
        assert_eq!(text(&found.path, SINGLE), WEIGHTS.1);
    }
}

/// Like transformers when asked for the model only.
#[test]
fn a_commit_of_which_another_program_left_out_files_is_completed() {
    let server = Server::start(&TINY);
    let cache = TempDir::new().unwrap();
    let found = folder(&server.hub(&cache)).unwrap();
    fs::remove_file(found.path.join("tokenizer.json")).unwrap();
    let name = format!("org/name@{}", found.commit).parse().unwrap();
    let pinned = server.hub(&cache).folder(&name, &mut |_| ()).unwrap();
    assert_eq!(text(&pinned.path, "tokenizer.json"), TOKENIZER.1);
}
