//! What it costs to tell what a single file holds and to put its components together, beyond reading its header. All of
//! it is arithmetic on names and shapes: the file is of true size and sparse, and no byte of a tensor is read.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, Result, ensure};
use weightsd_core::{
    assemble::{Inputs, Raw, assemble},
    family::{self, ModelFacts},
    header::{self, Header},
    place::{Layout, place},
    table::Table,
    tool::Tool,
};
use weightsd_fixtures::{Checkpoint, Contents, Dims, Dtype, FilePart};

use crate::samples::{Samples, millis};

/// Measures an all-in-one file of 1,095 tensors.
pub(crate) fn run(samples: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut checkpoint = Checkpoint::new(&Dims::true_size(), Contents::Sparse)?;
    checkpoint.component_mut("transformer").set_dtype(Dtype::BF16);
    let written = checkpoint.write_single_file(folder.path(), "all.safetensors", &FilePart::COMFY)?;
    let (json, length) = read_header(&folder.path().join("all.safetensors"))?;
    let header = Header::parse(&json, length)?;
    ensure!(header.tensors.len() == written.tensors.len());

    println!("| step | tensors | p50 ms | p99 ms |\n|---|---|---|---|");
    let show = |step: &str, tensors: usize, times: &Samples| {
        println!("| {step} | {tensors} | {} | {} |", millis(times.p50()), millis(times.percentile(99)));
    };
    let parse = Samples::take(samples, || {
        Header::parse(&json, length)?;
        Ok(())
    })?;
    show("parse the header", header.tensors.len(), &parse);
    let table = Table::of_file(header);
    let inspect = Samples::take(samples, || {
        family::locate(&table).context("a family")?;
        Ok(())
    })?;
    show("inspect: which parts, under which prefixes", table.tensors().len(), &inspect);
    let (family, located) = family::locate(&table).context("a family")?;
    for part in &located.parts {
        let mut tensors = 0;
        let times = Samples::take(samples, || {
            let raw = Raw::of_part(&table, &located, part.component, None, family, Tool::Unknown)?;
            let assembled = assemble(Inputs {
                component: part.component,
                family,
                description: None,
                model: family.name(None, &ModelFacts::default()),
                raw,
                other: None,
                declaration: None,
            })?;
            ensure!(assembled.report.is_clean());
            let (catalogue, naming) = (assembled.description.catalogue.as_ref(), &assembled.description.naming);
            tensors = place(&assembled.table, catalogue, naming, Layout::Source)?.len();
            Ok(())
        })?;
        show(&format!("{}: rename, split, audit, place", part.component), tensors, &times);
    }
    Ok(())
}

fn read_header(path: &Path) -> Result<(Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix)?;
    let mut json = vec![0; header::header_length(prefix, length)?];
    file.read_exact(&mut json)?;
    Ok((json, length))
}
