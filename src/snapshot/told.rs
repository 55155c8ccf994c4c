//! What weights without a config turn out to be: the components that their tensors tell.

use weightsd_core::{
    family::{self, ComponentSite, Family, Membership},
    parts::{FilePart, Located},
    select::Expectation,
    weight_name,
};

use super::Snapshot;

/// What weights without a config hold, by their tensors.
#[derive(Debug, Clone)]
pub struct Told {
    /// Their folder below the model's directory; empty for the root.
    pub folder: String,
    /// The file that they are, when it was chosen among several of the root or is the only one there.
    pub file: Option<String>,
    /// The parts in them.
    pub located: Located,
}

impl Snapshot {
    /// The weights that nothing but their tensors describes: those in the root without a config, and those of folders of a
    /// model that has no config at all.
    pub fn bare_sites(&self) -> impl Iterator<Item = &ComponentSite> {
        let is_untold = self.family.id() == family::GENERIC && self.told.is_empty();
        let is_config = |path: &String| ["config.json", "model_index.json"].contains(&weight_name::split(path).1);
        let has_no_config = !self.facts.documents.keys().chain(&self.missing_documents).any(is_config);
        let is_bare = move |site: &&ComponentSite| has_no_config || (site.folder.is_empty() && site.config.is_none());
        self.sites.iter().filter(move |site| is_untold && is_bare(site))
    }

    /// Takes the model for one of `family`, because the tensors of some of its folders are that family's: their parts are
    /// components. Of the other folders those that are called after a component are it, as far as anybody knows, and the
    /// rest is strange to the family.
    pub fn adopt(&mut self, family: &'static dyn Family, told: Vec<Told>) {
        let of_folder = |site: &ComponentSite| told.iter().position(|told| told.folder == site.folder);
        let stem = |told: &Told, site: &ComponentSite| {
            let file = told.file.as_ref().map(|file| weight_name::stem(file).unwrap_or(file).to_owned());
            file.unwrap_or_else(|| site.stem.clone())
        };
        let part = |told: &Told, site: &ComponentSite, part: &FilePart| ComponentSite {
            name: part.component.to_owned(),
            stem: stem(told, site),
            membership: Membership::Member,
            ..site.clone()
        };
        let mut sites: Vec<ComponentSite> = Vec::new();
        let mut strange = Vec::new();
        let mut kept = Vec::new();
        // Of two folders with one component, the one that is called after it comes first.
        let mut folders: Vec<_> = self.sites.iter().collect();
        let is_called_after = |site: &ComponentSite, told: &Told| told.located.part(&site.folder).is_some();
        folders.sort_by_key(|site| !of_folder(site).is_some_and(|at| is_called_after(site, &told[at])));
        for site in folders {
            let of = |told: &Told| told.located.parts.iter().map(|it| part(told, site, it)).collect::<Vec<_>>();
            let parts = of_folder(site).map(|at| (at, of(&told[at])));
            let is_new = |new: &ComponentSite| sites.iter().all(|known| known.name != new.name);
            match parts {
                Some((at, parts)) if !parts.is_empty() && parts.iter().all(is_new) => {
                    kept.push(told[at].clone());
                    sites.extend(parts);
                }
                _ => strange.push(site.clone()),
            }
        }
        for site in strange {
            let is_absent = family.parts().iter().any(|sign| sign.component == site.name) && site.config.is_none();
            let is_taken = sites.iter().any(|known| known.name == site.name);
            let is_told = of_folder(&site).is_some();
            sites.push(match (is_absent && !is_told, is_taken) {
                (true, false) => site,
                (_, taken) => {
                    let name = if taken { format!("./{}", site.name) } else { site.name };
                    ComponentSite { name, membership: Membership::Stranger, ..site }
                }
            });
        }
        (self.family, self.sites, self.told) = (family, sites, kept);
    }

    /// What the file holds, when the model is one file.
    #[must_use]
    pub fn located(&self) -> Option<&Located> {
        self.told.iter().find(|told| told.file.is_some()).map(|told| &told.located)
    }

    /// What the files of a component hold, when their tensors told that it is one.
    #[must_use]
    pub fn located_in(&self, site: &ComponentSite) -> Option<&Located> {
        self.told_of(site).map(|told| &told.located)
    }

    pub(super) fn told_of(&self, site: &ComponentSite) -> Option<&Told> {
        let is_member = site.membership == Membership::Member;
        self.told.iter().find(|told| is_member && told.folder == site.folder)
    }

    /// Whether the names of the weight files of a component are known.
    pub(super) fn expectation(site: &ComponentSite) -> Expectation {
        if site.config.is_some() { Expectation::Known } else { Expectation::Guessed }
    }
}
