//! `weightsd load`.

use std::{process::ExitCode, time::Duration};

use weightsd_client::{
    AuditPolicy, CardComponent, Client, Component, Hold, LoadRequest, MergedLayers, Quantisation, Verification, proto,
};
use weightsd_core::card::CardId;

use super::{
    args::{Beside, FloatType, Layout, Load, Model, Residency, Treatment},
    failure::{UsageError, unless_interrupted},
    output::{self, Format, bytes, print, short, time},
    progress::Bars,
    shell,
};

/// A load on a slow disk may take as long as the daemon lets it.
const DEADLINE: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn run(client: &Client, command: Load, format: Format) -> anyhow::Result<ExitCode> {
    shell::warn_of_ignored(client, &command.model.model).await?;
    let hold = if command.hold { Hold::Stream } else { Hold::None };
    let policy = if command.report_only { AuditPolicy::ReportOnly } else { AuditPolicy::Strict };
    let layout = match command.layout {
        Layout::Mlx => proto::Layout::Mlx,
        Layout::Source => proto::Layout::Source,
        Layout::Mflux => proto::Layout::Mflux,
    };
    let request = request(command.model, command.beside, command.component);
    let mut request = treated(request, command.treatment)?.layout(layout).audit_policy(policy).hold(hold);
    request = request.residency(match command.residency {
        Residency::Prefetch => proto::Residency::Prefetch,
        Residency::Lazy => proto::Residency::Lazy,
        Residency::Pinned => proto::Residency::Pinned,
    });
    if command.verify {
        request = request.verification(Verification::Before);
    }
    if let Some(keep_alive) = command.keep_alive {
        request = request.keep_alive(keep_alive);
    }
    if let Some(device) = &command.device {
        request = request.device(card(device)?.to_string());
    }
    let mut bars = Bars::new();
    let show = |progress: &proto::Progress| bars.show(progress);
    let loaded = match command.device {
        Some(_) => unless_interrupted(client.load_on_card(request, show))
            .await
            .map(|component| Loaded::OnCard(Box::new(component))),
        None => unless_interrupted(client.load(request, show)).await.map(Loaded::InFiles),
    };
    bars.clear();
    let mut component = loaded?;
    match format {
        Format::Text => print_component(component.info())?,
        Format::Json => output::print_json("Component", component.info())?,
    }
    if command.hold {
        wait(&mut component, format).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The card that a person means. This process asks its driver only where no UUID says it.
fn card(device: &str) -> anyhow::Result<CardId> {
    let found = device.parse().or_else(|_| weightsd_gpu::resolve(device).map(|card| card.id()));
    let hint = "give `cuda`, `cuda:1` or a UUID; `nvidia-smi -L` lists the cards of this machine";
    found.map_err(|error| UsageError::new(format!("`--device {device}`: {error}"), hint).into())
}

/// A component, wherever it lies.
enum Loaded {
    InFiles(Component),
    OnCard(Box<CardComponent>),
}

impl Loaded {
    fn info(&self) -> &proto::Component {
        match self {
            Self::InFiles(component) => component.info(),
            Self::OnCard(component) => component.info(),
        }
    }

    async fn next_notice(&mut self) -> Option<proto::Notice> {
        match self {
            Self::InFiles(component) => component.next_notice().await,
            Self::OnCard(component) => component.next_notice().await,
        }
    }
}

pub(super) fn request(model: Model, beside: Beside, component: String) -> LoadRequest {
    let mut request = LoadRequest::new(model.model, component).client_name("weightsd load").deadline(DEADLINE);
    if let Some(revision) = model.revision {
        request = request.revision(revision);
    }
    if let Some(cache) = model.hub_cache {
        request = request.hub_cache(cache);
    }
    if let Some(variant) = model.variant {
        request = request.variant(variant);
    }
    if model.offline {
        request = request.offline(true);
    }
    if let Some(base) = beside.base {
        request = request.base(base);
    }
    if let Some(overlay) = beside.overlay {
        request = request.overlay(overlay);
    }
    request.patterns(model.patterns)
}

/// The conversion that the flags ask for.
pub(super) fn treated(mut request: LoadRequest, treatment: Treatment) -> anyhow::Result<LoadRequest> {
    let Treatment { dtype, quantise, only, excluding, dequantise, adapters, scales, adapter_pattern, merged_plain } =
        treatment;
    if let Some(dtype) = dtype {
        request = request.dtype(match dtype {
            FloatType::AsStored => proto::FloatType::AsStored,
            FloatType::Bf16 => proto::FloatType::Bf16,
            FloatType::F16 => proto::FloatType::F16,
            FloatType::F32 => proto::FloatType::F32,
        });
    }
    if let Some(quantisation) = quantise {
        request = request.quantise(Quantisation { only, excluding, ..quantisation });
    }
    if dequantise {
        request = request.dequantise();
    }
    if !scales.is_empty() && scales.len() != adapters.len() {
        let problem = format!("there are {} adapters and {} scales", adapters.len(), scales.len());
        return Err(UsageError::new(problem, "give one `--adapter-scale` for each `--adapter`, or none").into());
    }
    let scales = scales.into_iter().chain(std::iter::repeat(1.0));
    for (adapter, scale) in adapters.into_iter().zip(scales) {
        request = match &adapter_pattern {
            Some(pattern) => request.adapter_file(adapter, pattern, scale),
            None => request.adapter(adapter, scale),
        };
    }
    Ok(if merged_plain { request.merged_layers(MergedLayers::Plain) } else { request })
}

fn print_component(info: &proto::Component) -> anyhow::Result<()> {
    let took = info
        .timings
        .iter()
        .flat_map(|timings| [timings.resolve, timings.open, timings.audit, timings.derive, timings.upload])
        .flatten();
    let took: Duration = took.filter_map(|part| Duration::try_from(part).ok()).sum();
    let keep_alive = info.lease.as_ref().and_then(|lease| lease.keep_alive);
    let keep_alive = keep_alive.and_then(|keep_alive| Duration::try_from(keep_alive).ok()).unwrap_or_default();
    let is_on_card = info.segments.iter().any(|segment| segment.card.is_some());
    let state = if info.warm { "was loaded" } else { "loaded" };
    print(format_args!(
        "{} {}: {} tensors, {}, {} {state} in {}",
        short(&info.id),
        info.name,
        info.tensor_count,
        bytes(info.tensor_bytes),
        match info.computed_bytes {
            0 if is_on_card => "on a card,".to_owned(),
            0 => "no byte copied,".to_owned(),
            computed => format!("{} computed,", bytes(computed)),
        },
        time(took)
    ))?;
    for segment in &info.segments {
        match &segment.card {
            Some(memory) => print(format_args!("  {} ({})", memory.device, bytes(memory.bytes)))?,
            None => {
                let length = segment.identity.as_ref().map_or(0, |identity| identity.length);
                print(format_args!("  {} ({})", segment.path, bytes(length)))?;
            }
        }
    }
    if let Some(report) = &info.audit {
        print(format_args!("  audit: {}", super::audit::verdict(report)))?;
        for remark in &report.remarks {
            print(output::wrapped(&format!("note: {remark}"), 2))?;
        }
    }
    if let Some(image) = &info.image {
        print(output::wrapped(&format!("computed from {} ({})", image.made_from, image.conversion), 2))?;
    }
    for adapter in &info.adapters {
        print(output::wrapped(&adapter_line(adapter), 2))?;
    }
    for assumption in &info.assumptions {
        print(output::wrapped(&format!("assumed {assumption}"), 2))?;
    }
    let model = info.model.clone().unwrap_or_default();
    output::warn(&model.warning)?;
    print(format_args!("  stays warm for {} after its last holder", output::span(keep_alive)))?;
    Ok(())
}

/// Describes the layers that an adapter changed and the keys that it left out.
fn adapter_line(adapter: &proto::AdapterReport) -> String {
    let mut line = format!("adapter {} x {}: {} layers changed", adapter.adapter, adapter.scale, adapter.layers);
    if let Some(sample) = adapter.without_target_sample.first() {
        line.push_str(&format!("; {} changes of no layer here, such as {sample}", adapter.without_target));
    }
    for strength in &adapter.strengths {
        line.push_str(&format!("; {} layers {}", strength.layers, strong(strength)));
    }
    if let Some(sample) = adapter.other_component_sample.first() {
        line.push_str(&format!("; {} keys are of other components, such as {sample}", adapter.other_component));
    }
    adapter.remarks.iter().fold(line, |line, remark| format!("{line}; {remark}"))
}

/// Describes the strengths of an adapter's changes, each with its source.
fn strong(strength: &proto::AdapterStrength) -> String {
    use proto::AdapterStrengthSource as Source;
    let source = match strength.source() {
        Source::Unspecified | Source::Nothing => return "as they are, since nothing says a strength".to_owned(),
        Source::AlphaTensor => "alpha tensors",
        Source::Config => "adapter_config.json",
        Source::Metadata => "the file's metadata",
    };
    format!("by {} ({source})", strength.strength)
}

/// Holds the component until Ctrl-C or until the daemon ends the lease.
async fn wait(component: &mut Loaded, format: Format) -> anyhow::Result<()> {
    if format == Format::Text {
        print("held; Ctrl-C lets go")?;
    }
    loop {
        tokio::select! {
            notice = component.next_notice() => match (notice, format) {
                (Some(notice), Format::Text) => print(notice.message)?,
                (Some(notice), Format::Json) => output::print_json("Notice", &notice)?,
                (None, _) => return Ok(()),
            },
            signal = tokio::signal::ctrl_c() => return Ok(signal?),
        }
    }
}
