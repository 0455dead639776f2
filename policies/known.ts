import { unknownValue, type RawBlock } from "./node.ts";

/**
 * Copies properties out of @pulumi/policy's proxy, which throws when an unknown is touched. Left to itself that exception turns a mandatory
 * policy into an advisory note, and the gate would stand open; here an unknown becomes a value that controls fail on.
 */
export function known(properties: Readonly<Record<string, unknown>>): RawBlock {
  return copyObject(properties);
}

function copyObject(value: object): RawBlock {
  return Object.fromEntries(Object.keys(value).map((key) => [key, copyProperty(value, key)]));
}

function copyProperty(holder: object, key: string): unknown {
  let value: unknown;
  try {
    value = (holder as RawBlock)[key];
  } catch {
    return unknownValue;
  }
  if (Array.isArray(value)) return Object.keys(value).map((index) => copyProperty(value as object, index));
  return typeof value === "object" && value !== null ? copyObject(value) : value;
}
