import { Type } from "typebox";

/* Shapes that the states of kinds are made of. */

/** One of some words. */
export const oneOf = <T extends string>(values: readonly T[], description: string) =>
  Type.Enum([...values], { type: "string", description });

/** A list of texts. */
export const texts = (description: string) => Type.Array(Type.String(), { description });

/** Texts by name. */
export const textsByName = (description: string) =>
  Type.Record(Type.String(), Type.String(), { description });
