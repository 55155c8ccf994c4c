//! Prints, as JSON, the tensors of a component in a single file as the core places them: for the judge in
//! `tests/python`, which reads the bytes and compares them.
//!
//! `canonical <file.safetensors> <component> <base directory>`

use std::{env, fs, io::Read, path::Path};

use anyhow::{Context, Result, ensure};
use weightsd_core::{
    assemble::{Inputs, Raw, assemble},
    family::{self, ModelFacts},
    header::{self, Header},
    place::{Layout, place},
    table::Table,
    tool::Tool,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [file, component, base] = arguments.as_slice() else {
        anyhow::bail!("usage: canonical <file.safetensors> <component> <base directory>");
    };
    let header = read_header(Path::new(file))?;
    let metadata = header.metadata.clone();
    let table = Table::of_file(header);
    let (family, located) = family::locate(&table).context("no family knows the file")?;
    let mut facts = ModelFacts::default();
    for site in family.components(&facts) {
        if let Some(path) = site.config {
            facts.documents.insert(path.clone(), fs::read(Path::new(base).join(path))?);
        }
    }
    let site = family.components(&facts).into_iter().find(|site| site.name == *component).context("no component")?;
    let description = family.describe(&site, &facts)?;
    let raw = Raw::of_part(&table, &located, component, Some(&description), family, Tool::of_metadata(&metadata))?;
    let assembled = assemble(Inputs {
        component,
        family,
        description: Some(description),
        model: None,
        raw,
        other: None,
        declaration: None,
    })?;
    ensure!(assembled.report.is_clean(), "{}", assembled.report.summary());
    let catalogue = assembled.description.catalogue.as_ref();
    let placed = place(&assembled.table, catalogue, &assembled.description.naming, Layout::Source)?;
    let json: Vec<_> = placed
        .iter()
        .map(|tensor| {
            serde_json::json!({"name": tensor.name, "dtype": tensor.dtype.to_string(), "shape": tensor.shape,
                "begin": tensor.at.range.start, "end": tensor.at.range.end})
        })
        .collect();
    println!("{}", serde_json::Value::from(json));
    Ok(())
}

fn read_header(path: &Path) -> Result<Header> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix)?;
    let mut json = vec![0; header::header_length(prefix, length)?];
    file.read_exact(&mut json)?;
    Ok(Header::parse(&json, length)?)
}
