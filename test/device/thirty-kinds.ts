import { createHash } from "node:crypto";
import { Type } from "typebox";
import type { Probe } from "../../provider/device/probe.ts";
import { outputOf } from "../../provider/device/probe.ts";
import { quote } from "../../provider/device/shell-quote.ts";
import { commitConfirm, file, type Step } from "../../provider/device/step.ts";
import { defineResource, type Observed, type ResourceKind } from "../../provider/resource.ts";

/*
 * Thirty resources of the shapes that real kinds have: four whose probe needs no inputs, and one kind with twenty-six instances whose probe needs
 * them. The files are below /run/edgeseal-test, which is the node's own.
 */

export const noteFolder = "/run/edgeseal-test";

const noteState = Type.Object({ content: Type.String() });
type Note = Observed<{ content: string }>;

function readNote(path: string): string {
  return `[ -e ${quote(path)} ] || exit 66; cat -- ${quote(path)}`;
}

function parseNote(parts: Parameters<Probe<Note>["parse"]>[0]): Note {
  if (parts["content"]?.code === 66) return { outcome: "absent" };
  return { outcome: "present", state: { content: outputOf(parts, "content") } };
}

function writeNote(path: string, content: string, observed: Note): readonly Step[] {
  if (observed.outcome === "present" && observed.state.content === content) return [];
  return [file({ title: `write ${path}`, path, content, mode: "0644" })];
}

/** A file of a name that the inputs give, holding text that they give. Its probe needs the name. */
export const namedNote = defineResource({
  token: "edgeseal:test:NamedNote",
  description: "A file with a name.",
  inputs: Type.Object(
    {
      name: Type.String({ pattern: "^[a-z0-9-]+$" }),
      content: Type.String(),
      password: Type.Optional(Type.String({ secret: true })),
    },
    { additionalProperties: false },
  ),
  state: noteState,
  observe: (inputs): Probe<Note> => ({
    id: `edgeseal:test:NamedNote#${createHash("sha256").update(inputs.name).digest("hex").slice(0, 16)}`,
    parts: { content: readNote(`${noteFolder}/${inputs.name}`) },
    parse: parseNote,
  }),
  desired: ({ content }) => ({ content }),
  plan: ({ name, content }, observed) => writeNote(`${noteFolder}/${name}`, content, observed),
  revert: () => [],
});

function fixedNote(name: string): ResourceKind {
  const path = `${noteFolder}/fixed-${name.toLowerCase()}`;
  return defineResource({
    token: `edgeseal:test:${name}`,
    description: "A file with one name.",
    inputs: Type.Object({ content: Type.String() }, { additionalProperties: false }),
    state: noteState,
    observe: () => ({ id: `edgeseal:test:${name}`, parts: { content: readNote(path) }, parse: parseNote }),
    desired: ({ content }) => ({ content }),
    plan: ({ content }, observed) => writeNote(path, content, observed),
    revert: () => [],
  });
}

const fixed = ["First", "Second", "Third", "Fourth"].map(fixedNote);

/** What a provider is made with. */
export const kinds: readonly ResourceKind[] = [...fixed, namedNote];

export interface Instance {
  readonly kind: ResourceKind;
  readonly inputs: { readonly content: string; readonly name?: string };
}

/** Thirty resources of one node. */
export const thirtyResources: readonly Instance[] = [
  ...fixed.map((kind, index) => ({ kind, inputs: { content: `fixed ${index}\n` } })),
  ...Array.from({ length: 26 }, (_, index) => ({
    kind: namedNote,
    inputs: { name: `note-${index}`, content: `named ${index}\n` },
  })),
];

/** A change of a note that needs a confirmation. */
export function confirmedNote(name: string, content: string): readonly Step[] {
  const path = `${noteFolder}/${name}`;
  return [
    commitConfirm({
      title: `write ${path}, confirmed`,
      apply: [file({ title: `write ${path}`, path, content, mode: "0644" })],
      files: [path],
      save: ":",
      restore: ":",
      rollbackTo: "the note as it was before",
      windowSeconds: 20,
    }),
  ];
}
