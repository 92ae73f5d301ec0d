//! Tells systemd how far the server is, where systemd asked to be told (`Type=notify`).

use std::io;

/// Sends a state such as `READY=1`. Without `NOTIFY_SOCKET` nobody waits for it.
pub fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(problem) = send(&socket, state) {
        tracing::warn!("NOTIFY_SOCKET={}: {state} cannot be told: {problem}", socket.display());
    }
}

#[cfg(unix)]
fn send(socket: &std::ffi::OsStr, state: &str) -> io::Result<()> {
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    #[cfg(target_os = "linux")]
    let abstract_name = {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        socket.as_bytes().strip_prefix(b"@").map(SocketAddr::from_abstract_name)
    };
    #[cfg(not(target_os = "linux"))]
    let abstract_name: Option<io::Result<SocketAddr>> = None;
    let address = abstract_name.unwrap_or_else(|| SocketAddr::from_pathname(socket))?;
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(not(unix))]
fn send(_socket: &std::ffi::OsStr, _state: &str) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}
