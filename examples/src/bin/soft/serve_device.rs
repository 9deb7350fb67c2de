//! `soft serve-device`: a Burn compute server, which other machines use with
//! `soft finetune --device ws://host:port`.
//!
//! Connections are not encrypted and every client is accepted: use it in trusted networks only.

use std::net::TcpListener;

use anyhow::{Context, Result};
use soft_burn::burn::server::{RemoteServer, WebSocketTransport};
use soft_burn::device;
use soft_examples::outln;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Device to serve: cpu, cuda, cuda:1, wgpu, ndarray, if it is compiled in
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Address to listen at; port 0 takes a free one. Other machines reach 0.0.0.0:3000
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: String,
}

pub fn run(args: Args) -> Result<()> {
    let device = device(&args.device)?;
    let listener = TcpListener::bind(&args.listen)
        .with_context(|| format!("cannot listen at {}", args.listen))?;
    let address = listener.local_addr()?;
    outln!("serving {} at ws://{address}; Ctrl-C ends it", args.device);
    RemoteServer::new([device]).serve(WebSocketTransport::from_listener(listener))?;
    Ok(())
}
