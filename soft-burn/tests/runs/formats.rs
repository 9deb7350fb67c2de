//! Folders of earlier versions: a stopped run continues, and a finished model loads.
//!
//! `fixtures/earlier_run` was written by the code of commit 45889db (2026-11-28) with `Site::start`
//! and the settings of `Site::settings`, and stopped after the validation of step 3. `finished` is
//! the same run without the stop.

use super::*;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.unwrap().path(), to.to_owned());
        let to = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &to);
        } else {
            fs::copy(&entry, &to).unwrap();
        }
    }
}

fn weights(model: &Path) -> Vec<f32> {
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all = tensors.tensors();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let numbers = all.into_iter().flat_map(|(_, view)| {
        let bytes = view.data().as_chunks::<4>().0.to_vec();
        bytes.into_iter().map(f32::from_le_bytes)
    });
    numbers.collect()
}

#[test]
fn a_run_of_an_earlier_version_goes_on() {
    let site = Site::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/earlier_run");
    let (base, out) = (site.path("earlier-base"), site.path("run"));
    copy(&fixture.join("base"), &base);
    copy(&fixture.join("run"), &out);
    let settings = fs::read_to_string(out.join("run.json")).unwrap();
    let settings = settings.replace("BASE", base.to_str().unwrap());
    fs::write(out.join("run.json"), settings).unwrap();

    let mut settings = site.settings(MethodName::Soft);
    settings.base = base;
    finish(site.resume("run", settings).unwrap());
    let found = weights(&out.join("model"));
    let wanted = weights(&fixture.join("finished/model"));
    assert_eq!(found.len(), wanted.len());
    let apart = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
    let worst = apart.fold(0.0, f32::max);
    // Written on a machine with AVX-512; other machines round sums differently.
    assert!(worst < 1e-4, "{worst}");
    let log = |out: &Path| {
        let log = fs::read_to_string(out.join("log.jsonl")).unwrap();
        log.lines().count()
    };
    assert_eq!(log(&out), log(&fixture.join("finished")));
    let model = Llama::from_pretrained(fixture.join("finished/model"), &test_device()).unwrap();
    assert_eq!(model.config().vocab, 11);
}
