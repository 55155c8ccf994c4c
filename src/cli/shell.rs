//! Warnings about variables of this shell that the daemon does not see and that would change its answer.

use weightsd_client::{Client, proto::GetStatusResponse};
use weightsd_core::{
    hub_env::{self, TokenSource},
    places::Env,
    spec::ModelSpec,
};
use weightsd_segment::environment::variable;

use super::output::warn;

/// Warns of hub variables that this shell has and the daemon lacks, when `spec` may mean a model on the hub.
pub(super) async fn warn_of_ignored(client: &Client, spec: &str) -> anyhow::Result<()> {
    let is_id = matches!(ModelSpec::parse(spec), Ok(ModelSpec::Id(_)));
    if !is_id || ["HF_ENDPOINT", "HF_TOKEN"].into_iter().all(|name| variable(name).is_none()) {
        return Ok(());
    }
    for warning in ignored(&client.status().await?, &variable) {
        warn(&warning)?;
    }
    Ok(())
}

fn ignored(daemon: &GetStatusResponse, env: Env<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let endpoint = hub_env::endpoint(env);
    if env("HF_ENDPOINT").is_some_and(|value| !value.trim().is_empty()) && endpoint != daemon.hub_endpoint {
        warnings.push(format!(
            "HF_ENDPOINT of this shell ({endpoint}) does not count: the daemon asks {}; to change that, set \
             `hub_endpoint` in its configuration or restart it from a shell with the variable",
            daemon.hub_endpoint
        ));
    }
    if matches!(hub_env::token_source(env), TokenSource::Value(_)) && !daemon.has_hub_token {
        warnings.push(
            "HF_TOKEN of this shell does not count, and the daemon has no token: log in with `hf auth login`, or restart \
             the daemon from a shell with the variable"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_nothing_is_not_told() {
        let daemon = |token| GetStatusResponse {
            hub_endpoint: "https://mirror".to_owned(),
            has_hub_token: token,
            ..GetStatusResponse::default()
        };
        let told = |variables: &[(&str, &str)], token| {
            let env =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            ignored(&daemon(token), &env)
        };
        assert_eq!(told(&[], false), Vec::<String>::new());
        assert_eq!(told(&[("HF_ENDPOINT", "https://mirror/"), ("HF_TOKEN", "x")], true), Vec::<String>::new());
        let both = told(&[("HF_ENDPOINT", "https://other"), ("HF_TOKEN", "hf_sEcReT")], false);
        assert!(both[0].contains("https://other") && both[0].contains("https://mirror"), "{both:?}");
        assert!(both[1].contains("HF_TOKEN") && !both[1].contains("sEcReT"), "{both:?}");
    }
}
