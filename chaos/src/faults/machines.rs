//! Machines that stand still, break down or are emptied. Seen by the machine's state, and by whether the member on it answers another machine.

use super::Striker;
use crate::backend::{MachineCondition, MachineFault, Member};
use anyhow::Result;
use std::time::Duration;

const HURT_WITHIN: Duration = Duration::from_secs(15);
/// A machine starts its container engine, the kubelet, and then its pods.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);

impl Striker<'_> {
    pub(super) async fn hurt_machine(&mut self, member: Member, how: MachineFault) -> Result<()> {
        self.backend.hurt_machine(member, how).await?;
        self.until_machine(member, how, MachineCondition::Hurt, HURT_WITHIN)
            .await
    }

    pub(super) async fn heal_machine(&mut self, member: Member, how: MachineFault) -> Result<()> {
        self.backend.heal_machine(member, how).await?;
        self.until_machine(member, how, MachineCondition::Whole, WHOLE_WITHIN)
            .await?;
        self.start(member).await
    }

    async fn until_machine(
        &mut self,
        member: Member,
        how: MachineFault,
        wanted: MachineCondition,
        within: Duration,
    ) -> Result<()> {
        let what = format!("the machine of {member} is {wanted:?}");
        self.until(&what, within, async |backend| {
            Ok(backend.machine_condition(member, how).await? == wanted)
        })
        .await
    }
}
