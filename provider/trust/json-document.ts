import type { Static, TSchema } from "typebox";
import { inputValidator } from "../check/input-validator.ts";
import { isProperties } from "../host/values.ts";
import type { InputProblem } from "../resource.ts";
import { AmbiguousJson, parseUnambiguousJson, type Json } from "./canonical-json.ts";

/** A JSON text that is what it should be, or everything that it is not. */
export type ReadDocument<T> =
  | { readonly value: T; readonly problems: readonly [] }
  | { readonly value: undefined; readonly problems: readonly InputProblem[] };

/**
 * A reader for JSON objects of one shape. A text that two readers could understand differently is refused as well.
 * @param what What is expected, for messages: `a DSSE envelope, as ... writes it`.
 */
export function jsonDocument<S extends TSchema>(
  what: string,
  schema: S,
): (text: string) => ReadDocument<Static<S>> {
  const validator = inputValidator(schema);
  return (text) => {
    let value: Json;
    try {
      value = parseUnambiguousJson(text);
    } catch (error) {
      if (!(error instanceof AmbiguousJson)) throw error;
      return { value: undefined, problems: [{ path: "", message: error.message }] };
    }
    if (!isProperties(value)) {
      return { value: undefined, problems: [{ path: "", message: `expected ${what}, a JSON object` }] };
    }
    const { problems } = validator.validate(value, []);
    return problems.length > 0 ? { value: undefined, problems } : { value: value as Static<S>, problems: [] };
  };
}
