//! Links that let nothing through, in one direction or both, or are slow. Seen by what is sent over one of them.

use super::{Others, Striker, Way};
use crate::backend::{Link, Member, Passage};
use anyhow::{Result, bail};
use std::time::Duration;

const MENDED_WITHIN: Duration = Duration::from_secs(5);

/// The links that a member is cut off by.
pub(super) fn between(members: Vec<Member>, member: Member, others: Others, way: Way) -> Vec<Link> {
    let nodes = members
        .iter()
        .filter(|one| matches!(one, Member::Node(_)) && **one != member);
    let some: Vec<Member> = nodes.step_by(2).copied().collect();
    let concerned = |other: &Member| match others {
        Others::All => true,
        Others::Nodes => matches!(other, Member::Node(_)),
        Others::Etcd => *other == Member::Etcd,
        Others::Routers => matches!(other, Member::Router(_)),
        Others::SomeNodes => some.contains(other),
    };
    let mut links = Vec::new();
    for other in members
        .iter()
        .copied()
        .filter(|other| *other != member && concerned(other))
    {
        if way != Way::In {
            links.push(Link {
                from: member,
                to: other,
            });
        }
        if way != Way::Out {
            links.push(Link {
                from: other,
                to: member,
            });
        }
    }
    links
}

impl Striker<'_> {
    pub(super) async fn cut(&mut self, links: &[Link]) -> Result<()> {
        self.cut_unseen(links).await?;
        self.see_cut(links).await
    }

    pub(super) async fn cut_unseen(&mut self, links: &[Link]) -> Result<()> {
        self.backend.cut_all(links).await
    }

    pub(super) async fn see_cut(&mut self, links: &[Link]) -> Result<()> {
        let Some(link) = links.first() else {
            bail!("there is no such link");
        };
        if self.backend.passage(*link).await? != Passage::Closed {
            bail!("{link} was cut, and something still gets through");
        }
        // One direction alone: the other must be seen to be open still.
        let back = Link {
            from: link.to,
            to: link.from,
        };
        if !links.contains(&back) && self.backend.passage(back).await? != Passage::Open {
            bail!("{back} was not to be cut, and nothing gets through");
        }
        Ok(())
    }

    pub(super) async fn mend(&mut self, links: &[Link]) -> Result<()> {
        self.mend_unseen(links).await?;
        self.see_mended(links).await
    }

    pub(super) async fn mend_unseen(&mut self, links: &[Link]) -> Result<()> {
        self.backend.mend_all(links).await
    }

    pub(super) async fn see_mended(&mut self, links: &[Link]) -> Result<()> {
        let Some(link) = links.first().copied() else {
            return Ok(());
        };
        let what = format!("{link} lets something through again");
        self.until(&what, MENDED_WITHIN, async |backend| {
            Ok(backend.passage(link).await? == Passage::Open)
        })
        .await
    }

    pub(super) async fn slow(&mut self, links: &[Link], by: Duration) -> Result<()> {
        for link in links {
            self.backend.delay(*link, by).await?;
        }
        let Some(link) = links.iter().find(|link| matches!(link.to, Member::Node(_))) else {
            bail!("there is no such link");
        };
        let took = self.backend.transit(*link).await?;
        if took < by {
            bail!(
                "{link} was to be slower by {} ms, and takes {} ms",
                by.as_millis(),
                took.as_millis()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::NodeId;

    fn members() -> Vec<Member> {
        let nodes = (1..=4).map(|number| Member::Node(NodeId(number)));
        [Member::Etcd]
            .into_iter()
            .chain(nodes)
            .chain([Member::Router(1)])
            .collect()
    }

    fn shown(others: Others, way: Way) -> Vec<String> {
        let links = between(members(), Member::Node(NodeId(2)), others, way);
        links.iter().map(Link::to_string).collect()
    }

    #[test]
    fn the_links_of_every_partition() {
        assert_eq!(shown(Others::All, Way::Both).len(), 10);
        assert_eq!(shown(Others::Etcd, Way::Both), ["node-2 -> etcd", "etcd -> node-2"]);
        assert_eq!(shown(Others::Routers, Way::In), ["router-1 -> node-2"]);
        assert_eq!(
            shown(Others::Nodes, Way::Out),
            ["node-2 -> node-1", "node-2 -> node-3", "node-2 -> node-4"]
        );
        assert_eq!(
            shown(Others::SomeNodes, Way::In),
            ["node-1 -> node-2", "node-4 -> node-2"]
        );
    }
}
