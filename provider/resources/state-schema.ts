import { Type } from "typebox";

/* Shapes that the states of kinds are made of. */

/** One of some words. */
export const oneOf = <T extends string>(values: readonly T[], description: string) =>
  Type.Enum([...values], { type: "string", description });

/** Whether edgeseal's files on the node are those that the inputs make: `contentOf`. */
export const content = oneOf(
  ["as declared", "other"],
  "Whether each file is what the inputs make of it, byte for byte, with its mode and owner: one that somebody loosened may be loaded and in effect all the same. Follows from `files`.",
);

/** A list of texts. */
export const texts = (description: string) => Type.Array(Type.String(), { description });

/** Texts by name. */
export const textsByName = (description: string) =>
  Type.Record(Type.String(), Type.String(), { description });
