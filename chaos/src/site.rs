//! Where clusters run: chosen by the command line, and what it takes to do a scenario there.

use crate::args::{LinksChoice, Options};
use crate::backend::process::{self, Links};
use crate::backend::{Ability, Setup, docker, kubernetes};
use crate::scenario::Scenario;
use anyhow::{Context, Result};
use std::path::PathBuf;

const ROUTERS: u64 = 2;

/// A place for clusters.
#[derive(Clone, Debug)]
pub enum Site {
    /// Processes of this machine.
    Process(Links),
    /// Containers.
    Docker(docker::Engine),
    /// Pods of a release that is there.
    Kubernetes,
}

impl Site {
    /// An engine for containers, without anything that dead commands have left with it.
    ///
    /// # Errors
    /// There is none, or it does not let go of what is left.
    pub async fn containers(options: &Options) -> Result<Self> {
        let site = Site::Docker(docker::Engine::find().await?);
        site.sweep(options).await?;
        Ok(site)
    }

    /// For reports.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Site::Process(links) => format!("{links:?}").to_lowercase(),
            Site::Docker(_) => "docker".to_owned(),
            Site::Kubernetes => "kubernetes".to_owned(),
        }
    }

    /// Removes what nobody looks after any more. What processes leave is removed before their enclosure is entered.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn sweep(&self, options: &Options) -> Result<()> {
        match self {
            // A release heals when it is looked for.
            Site::Process(_) | Site::Kubernetes => Ok(()),
            Site::Docker(engine) => docker::sweep(engine, &options.folder()).await,
        }
    }

    /// Why a scenario cannot be done here; none if it can.
    #[must_use]
    pub fn refuses(&self, options: &Options, scenario: &Scenario) -> Option<String> {
        let offer = match self {
            Site::Process(links) => process::offer(links_for(*links, options, scenario)),
            Site::Docker(_) => docker::offer(),
            Site::Kubernetes => kubernetes::offer(),
        };
        offer.lacks(scenario.needs)
    }

    /// How the cluster of a scenario is made.
    ///
    /// # Errors
    /// A program is not named.
    pub fn setup(&self, options: &Options, scenario: &Scenario) -> Result<Setup> {
        let small_disks = scenario.needs.contains(&Ability::Fill);
        let path = |path: &Option<PathBuf>, what: &str| path.clone().with_context(|| format!("{what} is not named"));
        Ok(match self {
            Site::Process(links) => Setup::Process(process::Setup {
                links: links_for(*links, options, scenario),
                nodes: options.nodes,
                routers: ROUTERS,
                programs: path(&options.programs, "--programs")?,
                etcd: path(&options.etcd, "--etcd")?,
                small_disks,
            }),
            Site::Docker(engine) => Setup::Docker(
                engine.clone(),
                docker::Setup {
                    nodes: options.nodes,
                    routers: ROUTERS,
                    image: options.image.clone(),
                    etcd_image: options.etcd_image.clone(),
                    small_disks,
                },
            ),
            Site::Kubernetes => Setup::Kubernetes(kubernetes::Setup {
                release: kubernetes::Release {
                    namespace: options.namespace.clone(),
                    name: options.release_name.clone(),
                },
                nodes: options.nodes,
                any_router: scenario.needs.contains(&Ability::Rollouts),
            }),
        })
    }
}

fn links_for(links: Links, options: &Options, scenario: &Scenario) -> Links {
    match links {
        Links::Namespaces if scenario.needs.contains(&Ability::Delay) && options.links == LinksChoice::Auto => {
            Links::Proxies
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ALL;
    use clap::Parser;

    /// Every backend says of every scenario that it can do it, or why not; what it says is what its abilities say.
    #[test]
    fn every_place_does_every_scenario_or_says_why_not() {
        let skipped = |site: &Site, flags: &[&str]| -> Vec<&'static str> {
            let options = Options::parse_from([&["x"][..], flags].concat());
            let refused = ALL.iter().filter_map(|scenario| {
                let why = site.refuses(&options, scenario)?;
                let need = scenario.needs.iter().find(|need| why.starts_with(&need.to_string()));
                assert!(
                    need.is_some_and(|need| why.len() > need.to_string().len() + 2),
                    "{}: {why}",
                    scenario.name
                );
                Some(scenario.name)
            });
            refused.collect()
        };
        let (namespaces, proxies) = (Site::Process(Links::Namespaces), Site::Process(Links::Proxies));
        let machines = ["machine-pause", "machine-restart", "machine-drain", "rollout"];
        let and_machines = |skipped: &[&'static str]| [skipped, &machines].concat();
        assert_eq!(skipped(&namespaces, &[]), machines);
        assert_eq!(
            skipped(&namespaces, &["--links", "namespaces"]),
            and_machines(&["slow-links"])
        );
        assert_eq!(skipped(&proxies, &[]), and_machines(&["disk-full"]));
        assert_eq!(
            skipped(&Site::Kubernetes, &[]),
            ["disk-full", "slow-links", "async-tail", "random"]
        );
        let with = |cut| -> Vec<&'static str> {
            let offer = docker::offered(cut);
            let refused = ALL.iter().filter(|scenario| offer.lacks(scenario.needs).is_some());
            refused.map(|scenario| scenario.name).collect()
        };
        assert_eq!(with(Ok(())), and_machines(&["slow-links"]));
        let without_root = with(Err("no root".to_owned()));
        assert!(without_root.contains(&"one-way") && without_root.contains(&"slow-links"));
        assert!(!without_root.contains(&"kill-primary") && !without_root.contains(&"disk-full"));
    }
}
