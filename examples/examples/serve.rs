//! Lets other machines compute on this one: a Burn compute server, for `finetune --device ws://host:port`.
//!
//! WebSocket is unencrypted and the server opens a session for whoever asks: for networks whose members you trust.

use std::net::TcpListener;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use soft_burn::burn::server::{RemoteServer, WebSocketTransport};
use soft_burn::device;
use soft_examples::outln;
use soft_examples::terminal;

#[derive(Parser, Debug)]
#[command(about = "Serve this machine's device to finetune runs elsewhere")]
struct Args {
    /// Device to serve: cpu, cuda, cuda:1, wgpu, ndarray, as compiled in
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Address to listen at; port 0 takes a free one. For other machines: 0.0.0.0:3000
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: String,
}

fn main() -> ExitCode {
    terminal::run(run)
}

fn run() -> Result<()> {
    let args = Args::parse();
    let device = device(&args.device)?;
    let listener = TcpListener::bind(&args.listen)
        .with_context(|| format!("cannot listen at {}", args.listen))?;
    let address = listener.local_addr()?;
    outln!("serving {} at ws://{address}; Ctrl-C ends it", args.device);
    RemoteServer::new([device]).serve(WebSocketTransport::from_listener(listener))?;
    Ok(())
}
