//! Functions of the runtime that a node calls for its clients (`state_call`).

use super::decode::DecodeError;
use super::encode::EncodeError;
use super::metadata::{Function, LookupError, Metadata};
use super::value::Value;

/// A function of a runtime API. Metadata of format 14 describes none.
#[derive(Clone, Debug)]
pub struct RuntimeFunction<'a> {
    metadata: &'a Metadata,
    method: String,
    function: &'a Function,
}

impl Metadata {
    /// Finds a function of a runtime API, such as `SubnetInfoRuntimeApi` and `get_metagraph`.
    ///
    /// # Errors
    /// When the metadata does not describe it. The runtime may have it nevertheless: metadata of
    /// format 14 describes no runtime APIs.
    pub fn runtime_function(
        &self,
        api: &str,
        name: &str,
    ) -> Result<RuntimeFunction<'_>, LookupError> {
        let method = format!("{api}_{name}");
        let function = self
            .function(api, name)
            .ok_or_else(|| LookupError::new("function of a runtime API", &method))?;
        Ok(RuntimeFunction { metadata: self, method, function })
    }
}

impl RuntimeFunction<'_> {
    /// Returns the name that `state_call` takes.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Writes the arguments, in order.
    ///
    /// # Errors
    /// When there are more or fewer than the function takes, or one is not of its type.
    pub fn encode_arguments(&self, arguments: &[Value]) -> Result<Vec<u8>, EncodeError> {
        let parameters = &self.function.parameters;
        if arguments.len() != parameters.len() {
            let names: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
            let expected = format!("the arguments {}", names.join(", "));
            return Err(EncodeError::mismatch(&expected, &Value::List(arguments.to_vec()))
                .writing(&self.method));
        }
        let mut out = Vec::new();
        for ((name, ty), argument) in parameters.iter().zip(arguments) {
            let what = || format!("{}: {name}", self.method);
            out.extend(self.metadata.write(*ty, argument, what)?);
        }
        Ok(out)
    }

    /// Reads the arguments. Bytes may follow, as the runtime ignores them.
    ///
    /// # Errors
    /// When the bytes end early or are not of the parameters' types.
    pub fn decode_arguments(&self, mut bytes: &[u8]) -> Result<Vec<Value>, DecodeError> {
        let parameters = self.function.parameters.iter();
        let read = |(name, ty): &(String, u32)| {
            self.metadata.read_prefix(*ty, &mut bytes, || format!("{}: {name}", self.method))
        };
        parameters.map(read).collect()
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// When the bytes are not of the function's type.
    pub fn decode(&self, answer: &[u8]) -> Result<Value, DecodeError> {
        self.metadata.read(self.function.output, answer, || self.method.clone())
    }

    /// Reads an answer, and ignores what newer runtimes append.
    ///
    /// # Errors
    /// When the bytes do not start with a value of the function's type.
    pub fn decode_start(&self, mut answer: &[u8]) -> Result<Value, DecodeError> {
        self.metadata.read_prefix(self.function.output, &mut answer, || self.method.clone())
    }

    /// Writes an answer.
    ///
    /// # Errors
    /// When the value is not of the function's type.
    pub fn encode(&self, answer: &Value) -> Result<Vec<u8>, EncodeError> {
        self.metadata.write(self.function.output, answer, || self.method.clone())
    }
}
