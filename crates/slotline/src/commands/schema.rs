//! `slotline schema`: the contract as documents that a machine reads.

use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser};
use slotline_protocol::contract::{DOCUMENTS, Document};

use crate::show::output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to print
    #[arg(value_name = "NAME", value_parser = names())]
    name: String,
}

fn names() -> PossibleValuesParser {
    DOCUMENTS.iter().map(|document| PossibleValue::new(document.name).help(document.about)).collect::<Vec<_>>().into()
}

pub(crate) fn schema(Args { name }: &Args) -> ExitCode {
    let document = Document::named(name).expect("the command line takes no other name");
    output::json(&document.value());
    ExitCode::SUCCESS
}
