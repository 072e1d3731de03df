//! A shim and nothing else, for programs whose own `main` can't call [`slotline_worker::shim::run_if_asked`] first,
//! such as tests.

fn main() {
    slotline_worker::shim::run_if_asked();
    eprintln!("this program is started by workers; by itself it does nothing");
    std::process::exit(2);
}
