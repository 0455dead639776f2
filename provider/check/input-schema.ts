import { Type, type TObject, type TSchema } from "typebox";
import { connectionSchema } from "../connection.ts";
import type { ResourceKind } from "../resource.ts";

/** What deleting a resource does to the node. An input of every resource. */
export const onDeleteSchema = Type.Union([Type.Literal("keep"), Type.Literal("revert")], {
  title: "OnDelete",
  default: "keep",
  description:
    "What deleting the resource does to the node: `keep` leaves the protection in force and does not contact the node; `revert` takes it back. Default `keep`: removing a line of code must not disarm a node.",
});

/** All inputs of a kind: its own, and those that every resource has. Unknown fields are refused, at every depth. */
export function inputSchema(kind: ResourceKind): TObject {
  // TypeBox leaves the list out when nothing is required.
  const required = kind.inputs.required as readonly string[] | undefined;
  const whole = {
    ...kind.inputs,
    properties: {
      ...kind.inputs.properties,
      connection: { ...connectionSchema, title: "Connection" },
      onDelete: onDeleteSchema,
    },
    required: [...(required ?? []), "connection", "onDelete"],
  };
  return closed(whole) as TObject;
}

/** The schema with `additionalProperties: false` wherever an object lists its properties and does not say more. */
function closed(schema: TSchema): TSchema {
  const close = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(close);
    if (typeof value !== "object" || value === null) return value;
    const copy = Object.fromEntries(Object.entries(value).map(([key, item]) => [key, close(item)]));
    const listsAll = copy["type"] === "object" && "properties" in copy && !("patternProperties" in copy);
    return listsAll && !("additionalProperties" in copy) ? { ...copy, additionalProperties: false } : copy;
  };
  return close(schema) as TSchema;
}
