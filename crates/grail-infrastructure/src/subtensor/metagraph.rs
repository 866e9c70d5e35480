//! The neurons of a subnet, from the runtime's own summary.

use grail_ports::chain::{Metagraph, Neuron};
use grail_protocol::ids::{BlockNumber, Hotkey, Netuid, Uid};

use super::error::{Trouble, unreadable};
use super::view::View;
use crate::substrate::{ShapeError, Value};

const API: &str = "SubnetInfoRuntimeApi";
const FUNCTION: &str = "get_metagraph";

/// Oldest format of metadata that describes the runtime's own functions.
const DESCRIBED_SINCE: u8 = 15;

/// Reads the metagraph of a subnet; `None` if there is no such subnet.
///
/// # Errors
/// When the node does not answer, or the answer is not what its metadata says.
pub async fn read(
    view: &View<'_>,
    netuid: Netuid,
    number: u64,
) -> Result<Option<Metagraph>, Trouble> {
    let bad = |error: &dyn std::fmt::Display| unreadable(FUNCTION, error);
    let metadata = &view.runtime.metadata;
    let function = metadata.runtime_function(API, FUNCTION).map_err(|error| {
        if metadata.format() >= DESCRIBED_SINCE {
            return bad(&error);
        }
        // The answer's form is the runtime's own affair; to guess it would invent stakes.
        let format = metadata.format();
        bad(&format!(
            "the node gives metadata of format {format} only, which does not say how the runtime \
             tells of neurons; use a node that gives format {DESCRIBED_SINCE}"
        ))
    })?;
    let arguments = function.encode_arguments(&[netuid.0.into()]).map_err(|error| bad(&error))?;
    let answer = view.call(function.method(), &arguments).await?;
    // Newer runtimes append fields; a node may be newer than the metadata that it serves.
    let value = function.decode_start(&answer).map_err(|error| bad(&error))?;
    let Some(value) = value.as_option().map_err(|error| bad(&error))? else { return Ok(None) };
    let neurons = neurons(value).map_err(|error| bad(&error))?;
    Ok(Some(Metagraph { netuid, block: BlockNumber(number), neurons }))
}

fn neurons(metagraph: &Value) -> Result<Vec<Neuron>, ShapeError> {
    let list = |name: &str| metagraph.field(name)?.as_list();
    let hotkeys = list("hotkeys")?;
    let stakes = list("total_stake")?;
    let permits = list("validator_permit")?;
    let incentives = list("incentives")?;
    let updates = list("last_update")?;
    for (name, other) in [
        ("total_stake", stakes),
        ("validator_permit", permits),
        ("incentives", incentives),
        ("last_update", updates),
    ] {
        if other.len() != hotkeys.len() {
            let expected = format!("{} items in {name}", hotkeys.len());
            let found = format!("{}", other.len());
            return Err(ShapeError { expected, found });
        }
    }
    let mut neurons = Vec::with_capacity(hotkeys.len());
    for (index, hotkey) in hotkeys.iter().enumerate() {
        let uid = u16::try_from(index).map_err(|_| ShapeError {
            expected: "at most 65,536 neurons".to_owned(),
            found: hotkeys.len().to_string(),
        })?;
        neurons.push(Neuron {
            uid: Uid(uid),
            hotkey: Hotkey(hotkey.as_bytes32()?),
            stake: stakes[index].as_uint()?,
            validator_permit: permits[index].as_bool()?,
            incentive: f64::from(incentives[index].as_uint::<u16>()?) / f64::from(u16::MAX),
            last_update: BlockNumber(updates[index].as_uint()?),
        });
    }
    Ok(neurons)
}
