//! `wsgate demo`: the proxy in front of backends of its own, on free ports, and a tour of what it does.
//!
//! Everything goes over real sockets through the same server::Server that `wsgate run` starts; only the backends and the client
//! of the tour are made for it.

mod backend;
mod peer;
mod tour;

use crate::config::Config;
use crate::log;
use crate::server::Server;
use crate::stdout::say;
use std::io;
use std::process::ExitCode;

/// Runs the demo until Ctrl-C, or with `once` to the end of the tour: success if all was as announced.
pub fn run(once: bool) -> ExitCode {
    match start(once) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: the demo cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(once: bool) -> io::Result<ExitCode> {
    let (heard, hears) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let shared = backend::AdminAddress::default();
    let backends = [
        runtime.block_on(backend::start(heard.clone(), shared.clone()))?,
        runtime.block_on(backend::start(heard, shared.clone()))?,
    ];
    let backends = backends.map(|address| address.to_string());
    let any = "127.0.0.1:0".to_owned();
    let config = Config::from_command_line(std::slice::from_ref(&any), &backends, Some(&any))
        .map_err(io::Error::other)?;
    log::init(log::Settings {
        level: tracing::Level::ERROR,
        ..config.log
    });
    let server = Server::bind(config, None, None).map_err(io::Error::other)?;
    let (Some(listener), Some(admin)) = (server.addresses().pop(), server.admin()) else {
        return Err(io::Error::other("the server has no listener"));
    };
    let _ = shared.set(admin.clone());
    let tour = tour::Tour::new(listener.to_string(), admin.to_string(), hears);
    tour.introduce(&backends);
    // The server waits for signals on this thread, so the tour has one of its own.
    std::thread::spawn(move || {
        let good = runtime.block_on(tour.take());
        if once {
            // There is nothing to wind up: all that runs is this demo.
            std::process::exit(i32::from(!good));
        }
        say!("It runs until Ctrl-C: open the page, or try a client of your own.");
        // Keeps the backends alive.
        runtime.block_on(std::future::pending::<()>());
    });
    server.run()?;
    Ok(ExitCode::SUCCESS)
}
