//! Free ports.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

/// A port that nothing listens on, at any address of this machine. The kernel may give the same one
/// twice in a row, so each is handed out once.
pub fn free() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))
            .expect("a port to listen on");
        let port = listener.local_addr().expect("the port it got").port();
        if GIVEN.lock().insert(port) {
            return port;
        }
    }
}
