//! `soft serve`: a server with OpenAI's API, where every request chooses its depth.
//!
//! One thread decodes all requests together (`decoding`); the others read requests (`request`),
//! queue them (`queue`) and write responses (`answers`, `response`).

mod access;
mod answers;
mod costs;
mod decoding;
mod fields;
mod http;
mod lens;
mod messages;
mod metrics;
mod models;
mod queue;
mod refusal;
mod request;
mod response;
mod shared_fields;
mod streamed;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use soft_core::Exits;
use soft_core::decode::SharedSettings;
use soft_examples::model::{ModelArgs, OpenModel};
use soft_examples::tokens::note_default_template;
use soft_examples::{outln, statusln};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use access::Access;
use answers::Server;
use costs::Costs;
use decoding::DecodingThread;
use metrics::Metrics;
use models::Models;
use queue::Queue;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Address to listen at; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: String,
    /// Name of the model in requests [default: that of its folder]
    #[arg(long)]
    name: Option<String>,
    /// Key that requests must carry; needed to listen where other machines reach it. Other users of
    /// this machine can see it in the list of processes: --api-key-file is safer
    #[arg(long, conflicts_with = "api_key_file")]
    api_key: Option<String>,
    /// File with the key
    #[arg(long)]
    api_key_file: Option<PathBuf>,
    /// Exits to offer, the last one the full depth [default: those the model was trained at]
    #[arg(long)]
    exits: Option<Exits>,
    /// Answers decoded at a time
    #[arg(long, default_value_t = 8)]
    rows: usize,
    /// Answers that may wait; more are refused with status 429
    #[arg(long, default_value_t = 256)]
    queue: usize,
    /// Tokens of prompt and answer together [default: the model's context]
    #[arg(long)]
    positions: Option<usize>,
    /// Tokens of a new prompt that are processed between two steps of the running answers
    #[arg(long, default_value_t = 64)]
    prompt_chunk: usize,
    /// Seconds that an answer may take, from the arrival of its request
    #[arg(long, default_value_t = 300)]
    time_limit: u64,
    /// Bytes of a request
    #[arg(long, default_value_t = 1 << 20)]
    body_limit: usize,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.rows > 0, "--rows is 0: expected at least 1");
    ensure!(args.queue > 0, "--queue is 0: expected at least 1");
    ensure!(
        args.prompt_chunk > 0,
        "--prompt-chunk is 0: expected at least 1"
    );
    let address = address(&args.listen)?;
    let access = Access::new(args.api_key.clone(), args.api_key_file.as_deref(), address)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind(address));
    let listener = listener.with_context(|| format!("cannot listen at {}", args.listen))?;
    let OpenModel {
        folder,
        model,
        tokenizer,
        mut trained,
    } = args.model.open()?;
    if let Some(exits) = args.exits {
        trained.exits = Some(exits.for_depth(trained.depth)?);
    }
    note_default_template(&tokenizer, &folder);
    let context = model.config().max_positions;
    let positions = args.positions.unwrap_or(context);
    ensure!(
        (1..=context).contains(&positions),
        "--positions is {positions}: expected 1 to {context}, the model's context"
    );
    let name = args.name.clone().or_else(|| {
        let name = folder.canonicalize().ok()?;
        Some(name.file_name()?.to_string_lossy().into_owned())
    });
    let name = name.context("no name for the model: give --name")?;
    let measured = trained
        .exits
        .clone()
        .map_or_else(|| Exits::new([trained.depth]), Ok)?;
    statusln!("measuring the time of a token at exits {measured}");
    let created = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let shared = SharedSettings {
        rows: args.rows,
        positions,
        prompt_chunk: args.prompt_chunk,
        exits: Exits::every(1, 1..=trained.depth)?,
        draft_tokens: trained.draft_tokens.clone(),
        probes: trained.probes.clone(),
    };
    let time_limit = Duration::from_secs(args.time_limit);
    let server = Arc::new(Server {
        costs: Costs::measure(&model, &measured.for_depth(trained.depth)?)?,
        models: Models::new(name.clone(), created, &trained),
        tokenizer: Arc::new(tokenizer),
        trained,
        positions,
        queue: Queue::new(args.queue, time_limit),
        metrics: Metrics::default(),
        requests: AtomicU64::new(0),
    });
    for (exit, ms) in server.costs.now() {
        statusln!("exit {exit}: {ms:.1} ms per token");
    }
    outln!(
        "{name} at http://{}/v1; Ctrl-C ends it",
        listener.local_addr()?
    );
    let decoding = {
        let server = Arc::clone(&server);
        thread::spawn(move || {
            DecodingThread {
                model: &model,
                tokenizer: &server.tokenizer,
                shared,
                queue: &server.queue,
                metrics: &server.metrics,
                costs: &server.costs,
                time_limit,
            }
            .run();
        })
    };
    let app = http::App {
        server,
        access,
        body_limit: args.body_limit,
    };
    let shutdown = Arc::new(Notify::new());
    let asked = Arc::clone(&shutdown);
    ctrlc::set_handler(move || asked.notify_one())?;
    runtime.block_on(http::serve(listener, app, shutdown))?;
    // Answers that are still running have lost their clients.
    runtime.shutdown_background();
    decoding
        .join()
        .map_err(|_| anyhow!("the decoding thread failed"))
}

fn address(listen: &str) -> Result<SocketAddr> {
    let mut addresses = listen.to_socket_addrs().with_context(|| {
        format!("--listen is {listen:?}: expected an address such as 127.0.0.1:8000")
    })?;
    addresses
        .next()
        .with_context(|| format!("no address for {listen:?}"))
}
