//! Events: what a block did, and why an extrinsic in it failed.

use std::fmt;

use super::decode::{DecodeError, DecodeErrorKind};
use super::encode::EncodeError;
use super::metadata::{LookupError, Metadata};
use super::value::{ShapeError, Value};

/// When in a block an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// While an extrinsic was applied, by its index in the block.
    ApplyExtrinsic(u32),
    /// After all extrinsics.
    Finalization,
    /// Before all extrinsics.
    Initialization,
}

/// An event of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// When it happened.
    pub phase: Phase,
    /// Pallet, such as `System`.
    pub pallet: String,
    /// Name, such as `ExtrinsicSuccess`.
    pub name: String,
    /// Its fields: a [`Value::Record`], or a [`Value::List`] where they have no names.
    pub fields: Value,
}

/// Why the chain did not do what an extrinsic asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DispatchError {
    /// A pallet's error.
    Module(ModuleError),
    /// Another error, such as `BadOrigin` or `Token.FundsUnavailable`.
    Other(String),
}

/// An error of a pallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleError {
    /// Pallet, such as `SubtensorModule`.
    pub pallet: String,
    /// Name, such as `SettingWeightsTooFast`.
    pub name: String,
    /// What the runtime's source says of it, in one line.
    pub docs: String,
}

impl Metadata {
    /// Reads the events of a block: the value of `System.Events`, absent in a block without.
    ///
    /// # Errors
    /// When the bytes are no events of this runtime.
    pub fn decode_events(&self, bytes: Option<&[u8]>) -> Result<Vec<EventRecord>, DecodeError> {
        let item = self.storage("System", "Events").map_err(no_events)?;
        let value = item.decode(bytes)?.unwrap_or(Value::List(Vec::new()));
        let read = |_: ShapeError| no_events(LookupError::new("event", "of a pallet"));
        value.map_list(event_record).map_err(read)
    }

    /// Writes the events of a block: the value of `System.Events`.
    ///
    /// # Errors
    /// When this runtime has no such event, or its fields are not of their types.
    pub fn encode_events(&self, events: &[EventRecord]) -> Result<Vec<u8>, EncodeError> {
        let item = self.storage("System", "Events").map_err(|_| {
            EncodeError::mismatch("a runtime with System.Events", &Value::List(Vec::new()))
        })?;
        item.encode(&Value::List(events.iter().map(event_value).collect()))
    }

    /// Names an error of a pallet. The first byte of `error` is its index in the pallet.
    ///
    /// # Errors
    /// When this runtime has no such error.
    pub fn error(&self, pallet: u8, error: [u8; 4]) -> Result<ModuleError, LookupError> {
        let unknown = || LookupError::new("error", format!("{pallet}.{}", error[0]));
        let (name, pallet) = self.pallet_at(pallet).ok_or_else(unknown)?;
        let mut variants = self.variants(pallet.errors).iter();
        let variant = variants.find(|variant| variant.index == error[0]).ok_or_else(unknown)?;
        Ok(ModuleError {
            pallet: name.to_owned(),
            name: variant.name.clone(),
            docs: variant.docs.join(" ").trim().to_owned(),
        })
    }

    /// Returns the `DispatchError` of a pallet's error.
    ///
    /// # Errors
    /// When this runtime has no such error.
    pub fn error_value(&self, pallet: &str, name: &str) -> Result<Value, LookupError> {
        let in_pallet = self.pallet(pallet)?;
        let mut variants = self.variants(in_pallet.errors).iter();
        let variant = variants
            .find(|variant| variant.name == name)
            .ok_or_else(|| LookupError::new("error", format!("{pallet}.{name}")))?;
        let error = [variant.index, 0, 0, 0];
        let index = Value::from(in_pallet.index);
        Ok(Value::variant(
            "Module",
            Value::record([("index", index), ("error", Value::bytes(error))]),
        ))
    }

    /// Names a `DispatchError`, as events carry it.
    ///
    /// # Errors
    /// When the value is no `DispatchError`.
    pub fn dispatch_error(&self, value: &Value) -> Result<DispatchError, ShapeError> {
        let (kind, fields) = value.as_variant()?;
        if kind != "Module" {
            let detail = fields.item(0).and_then(Value::as_variant);
            return Ok(DispatchError::Other(match detail {
                Ok((detail, _)) => format!("{kind}.{detail}"),
                Err(_) => kind.to_owned(),
            }));
        }
        let module = fields.item(0)?;
        let pallet = module.field("index")?.as_uint()?;
        let error = module.field("error")?;
        let error = error.as_bytes()?.try_into().map_err(|_| error.shape("4 bytes"))?;
        Ok(match self.error(pallet, error) {
            Ok(error) => DispatchError::Module(error),
            Err(_) => DispatchError::Other(format!("error {} of pallet {pallet}", error[0])),
        })
    }
}

/// Returns whether the extrinsic at `index` of a block succeeded, from the block's events; `None`
/// when they do not say.
///
/// # Errors
/// When the event of a failure has no error.
pub fn outcome(
    metadata: &Metadata,
    events: &[EventRecord],
    index: u32,
) -> Result<Option<Result<(), DispatchError>>, ShapeError> {
    let own = |event: &&EventRecord| {
        event.phase == Phase::ApplyExtrinsic(index) && event.pallet == "System"
    };
    for event in events.iter().filter(own) {
        match event.name.as_str() {
            "ExtrinsicSuccess" => return Ok(Some(Ok(()))),
            "ExtrinsicFailed" => {
                let error = event.fields.field("dispatch_error")?;
                return metadata.dispatch_error(error).map(|error| Some(Err(error)));
            }
            _ => {}
        }
    }
    Ok(None)
}

impl fmt::Display for DispatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(error) => write!(f, "{}.{}: {}", error.pallet, error.name, error.docs),
            Self::Other(name) => f.write_str(name),
        }
    }
}

fn no_events(_: LookupError) -> DecodeError {
    DecodeErrorKind::Mismatch("this runtime records none").reading("events")
}

fn event_record(record: &Value) -> Result<EventRecord, ShapeError> {
    let (phase, index) = record.field("phase")?.as_variant()?;
    let phase = match phase {
        "ApplyExtrinsic" => Phase::ApplyExtrinsic(index.item(0)?.as_uint()?),
        "Finalization" => Phase::Finalization,
        "Initialization" => Phase::Initialization,
        _ => return Err(record.shape("a phase of a block")),
    };
    let (pallet, event) = record.field("event")?.as_variant()?;
    let (name, fields) = event.item(0)?.as_variant()?;
    Ok(EventRecord {
        phase,
        pallet: pallet.to_owned(),
        name: name.to_owned(),
        fields: fields.clone(),
    })
}

fn event_value(event: &EventRecord) -> Value {
    let phase = match event.phase {
        Phase::ApplyExtrinsic(index) => Value::variant("ApplyExtrinsic", index),
        Phase::Finalization => Value::unit("Finalization"),
        Phase::Initialization => Value::unit("Initialization"),
    };
    let inner = Value::Variant(event.name.clone(), Box::new(event.fields.clone()));
    Value::record([
        ("phase", phase),
        ("event", Value::variant(&event.pallet, inner)),
        ("topics", Value::List(Vec::new())),
    ])
}
