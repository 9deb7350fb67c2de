//! A cache without a hub, with a hub that fails, and with files of other programs.

use std::fs;

use soft_data::{Hub, HubConfig, HubError, Missing};
use tempfile::TempDir;

use crate::server::{Server, etag};
use crate::{SINGLE, TINY, TOKENIZER, WEIGHTS, folder, offline, repo, text};

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
