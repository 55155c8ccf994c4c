//! The profiles of the AWS tools: keys that lie in `~/.aws/credentials` or `~/.aws/config`. They are read anew for each
//! request, so that a login counts at once. Profiles that name a role, a login page or a program are not followed.

use std::{fs, io::Read as _, path::PathBuf, sync::Arc};

use object_store::{CredentialProvider, aws::AwsCredential};
use weightsd_segment::environment::variable;

/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1_000_000;

/// What a profile says. `Debug` is not derived: it holds a secret.
#[derive(Default)]
pub(super) struct Profile {
    pub(super) keys: Option<AwsCredential>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

/// Gives out the keys of the profile.
#[derive(Debug)]
pub(super) struct ProfileKeys;

#[async_trait::async_trait]
impl CredentialProvider for ProfileKeys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let gone = || object_store::Error::Generic { store: "S3", source: "the profile's keys are gone".into() };
        read().and_then(|profile| profile.keys).map(Arc::new).ok_or_else(gone)
    }
}

/// The profile that counts, when it has keys.
pub(super) fn read() -> Option<Profile> {
    let name = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    let home = variable("HOME").map(PathBuf::from);
    let file = |variable_name: &str, usual: &str| {
        let path = variable(variable_name).map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".aws").join(usual)));
        path.and_then(small_text).unwrap_or_default()
    };
    let (credentials, config) = (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), file("AWS_CONFIG_FILE", "config"));
    Some(profile(&credentials, &config, &name)).filter(|profile| profile.keys.is_some())
}

/// A FIFO in its place could make the daemon wait for ever.
fn small_text(path: PathBuf) -> Option<String> {
    let file = fs::metadata(&path).ok().filter(fs::Metadata::is_file).and_then(|_| fs::File::open(path).ok())?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

fn profile(credentials: &str, config: &str, name: &str) -> Profile {
    let of_config = if name == "default" { "default".to_owned() } else { format!("profile {name}") };
    let value = |key: &str| value(credentials, name, key).or_else(|| value(config, &of_config, key));
    let keys = (|| {
        Some(AwsCredential {
            key_id: value("aws_access_key_id")?,
            secret_key: value("aws_secret_access_key")?,
            token: value("aws_session_token"),
        })
    })();
    Profile { keys, region: value("region"), endpoint: value("endpoint_url") }
}

/// A value of a section. Lines that are indented belong to the key above them, and are not read.
fn value(text: &str, section: &str, key: &str) -> Option<String> {
    let mut is_inside = false;
    let mut found = None;
    for line in text.lines() {
        if line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_inside = name.split_whitespace().eq(section.split_whitespace());
            continue;
        }
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        if is_inside && name.trim() == key && !value.trim().is_empty() {
            found = Some(value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_where_the_aws_tools_keep_them() {
        let credentials =
            "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=B=\n\n[work]\naws_access_key_id=C\n";
        let config = "[default]\nregion = eu-west-1\ns3 =\n  endpoint_url = https://nested\n[profile  work]\n\
                      aws_secret_access_key = D\naws_session_token = E\nendpoint_url = http://minio:9000\n";
        let found = |name: &str| {
            let Profile { keys, region, endpoint } = profile(credentials, config, name);
            (keys.map(|keys| (keys.key_id, keys.secret_key, keys.token)), region, endpoint)
        };
        let text = |text: &str| text.to_owned();
        assert_eq!(found("default"), (Some((text("A"), text("B="), None)), Some(text("eu-west-1")), None));
        let work = (text("C"), text("D"), Some(text("E")));
        assert_eq!(found("work"), (Some(work), None, Some(text("http://minio:9000"))));
        assert_eq!(found("other"), (None, None, None));
    }
}
