//! Notifies the service manager of start, reload and stop: systemd's notification protocol, `sd_notify(3)`.
//!
//! In: `NOTIFY_SOCKET` of the environment. Out: datagrams `READY=1`, `RELOADING=1`, `STOPPING=1` with a line for
//! `systemctl status`. Touches one Unix socket; without the variable, nothing. A manager that does not listen is not an error.

use std::os::unix::net::UnixDatagram;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Every role was started.
    Ready,
    /// The configuration is read again.
    Reloading,
    /// It drains what it has.
    Stopping,
}

/// Notifies the service manager, if `NOTIFY_SOCKET` is set.
pub fn notify(state: State, status: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, &message(state, status, monotonic_us())) {
        tracing::warn!(%error, ?socket, "cannot notify the service manager");
    }
}

fn message(state: State, status: &str, now_us: u64) -> String {
    let status = status.replace('\n', " ");
    match state {
        State::Ready => format!("READY=1\nSTATUS={status}"),
        // systemd 253 and newer compare the time with that of their request.
        State::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS={status}"),
        State::Stopping => format!("STOPPING=1\nSTATUS={status}"),
    }
}

fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (secs, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    secs.saturating_mul(1_000_000).saturating_add(nanos / 1_000)
}

fn send(socket: &std::ffi::OsStr, text: &str) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::ffi::OsStrExt as _;
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => std::os::unix::net::SocketAddr::from_abstract_name(name)?,
        _ => std::os::unix::net::SocketAddr::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    // A manager that does not read must not hold the process up.
    from.set_nonblocking(true)?;
    from.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_written_as_the_manager_reads_them() {
        for (state, want) in [
            (State::Ready, "READY=1\nSTATUS=a b"),
            (State::Reloading, "RELOADING=1\nMONOTONIC_USEC=7\nSTATUS=a b"),
            (State::Stopping, "STOPPING=1\nSTATUS=a b"),
        ] {
            assert_eq!(message(state, "a\nb", 7), want);
        }
    }

    #[test]
    fn paths_and_abstract_names_are_reached() {
        use std::os::linux::net::SocketAddrExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("millrace-test-{}", std::process::id());
        let abstract_name = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        for (listening, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
        ] {
            send(&address, "READY=1").unwrap();
            let mut bytes = [0; 64];
            let count = listening.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..count], b"READY=1");
        }
        assert!(send(folder.path().join("nobody").as_os_str(), "READY=1").is_err());
    }
}
