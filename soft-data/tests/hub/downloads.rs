//! What is transferred, and what of it is trusted.

use std::fs;

use serde_json::json;
use soft_data::{Hub, HubConfig, HubError, Missing};
use tempfile::TempDir;

use crate::server::{Request, Server, etag};
use crate::{
    CONFIG, INDEX, SINGLE, TINY, TOKENIZER, WEIGHTS, folder, main_of_tiny, offline, repo, text,
};

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
