//! `soft serve`: a Burn compute server, so that other machines compute on this one with
//! `soft finetune --device ws://host:port`.
//!
//! The connection is unencrypted and the server accepts every client: use it in trusted networks.

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
