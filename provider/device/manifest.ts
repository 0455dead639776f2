import { createHash } from "node:crypto";
import { Ajv, type ValidateFunction } from "ajv";
import type { Observed, ResourceKind } from "../resource.ts";
import { outputOf, type PartOutput, type Probe } from "./probe.ts";
import { quote } from "./shell-quote.ts";

/*
 * Where a node keeps the inputs that its input-dependent probes need, one file for each probe id, so that a provider process that knows nothing yet
 * can ask all of them in one second batch. It holds no secrets. It comes from the device, so it is trusted with nothing: an entry is checked
 * against its kind's schema, and all that it can bring about is one more question.
 */
const manifestDirectory = "/var/lib/edgeseal/manifest";

/** A device can't make us ask without end: the bytes that are read of all entries together. */
const maxBytes = 1024 * 1024;

/** The probes that are asked for on account of the manifest, at most. */
const maxEntries = 512;

/** A change of the node's manifest, sent along with the exec of a plan. */
export interface ManifestChange {
  /** Entries to write, by probe id; each is one line of JSON without secrets. */
  readonly set: ReadonlyMap<string, string>;
  /** Probe ids whose entries go. */
  readonly drop: readonly string[];
}

function pathOf(probeId: string): string {
  return `${manifestDirectory}/${createHash("sha256").update(probeId).digest("hex")}.json`;
}

/**
 * Shell that makes the change: a fragment for the body of a plan's script. It never fails a plan: without an entry the next refresh
 * takes one exec more, and is no less right.
 */
export function renderManifestChange(change: ManifestChange): string {
  if (change.set.size === 0 && change.drop.length === 0) return ":";
  const lines = [`umask 077`, `mkdir -p ${manifestDirectory}`];
  for (const [id, entry] of change.set) {
    const path = pathOf(id);
    lines.push(`printf '%s\\n' ${quote(entry)} >${path}.new && mv -f ${path}.new ${path}`);
  }
  if (change.drop.length > 0) lines.push(`rm -f ${change.drop.map(pathOf).join(" ")}`);
  return `( ${lines.join("; ")} ) </dev/null >/dev/null 2>&1 || :`;
}

/** Reads all entries: lines of JSON, in no order. None is as good as an unreadable one. */
export const manifestProbe: Probe<Observed<readonly string[]>> = {
  id: "edgeseal:manifest",
  parts: {
    entries: `[ -d ${manifestDirectory} ] || exit 0
find ${manifestDirectory} -maxdepth 1 -type f -name '*.json' -size -64k -exec cat {} + | head -c ${maxBytes}`,
  },
  parse: (parts) => ({ outcome: "present", state: outputOf(parts, "entries").split("\n") }),
};

interface Schema {
  readonly secret?: boolean;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly patternProperties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: boolean | Schema;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
}

const branches = ["anyOf", "oneOf", "allOf"] as const;

/** The schema and all its alternatives. */
function alternatives(schema: Schema): readonly Schema[] {
  return [schema, ...branches.flatMap((branch) => (schema[branch] ?? []).flatMap(alternatives))];
}

const isSecret = (schemas: readonly Schema[]): boolean =>
  schemas.flatMap(alternatives).some(({ secret }) => secret === true);

/** What the schemas say of one property: nothing, when none of them knows it. */
function schemasOf(schemas: readonly Schema[], key: string): readonly Schema[] {
  return schemas.flatMap(alternatives).flatMap((schema) => {
    const named = schema.properties?.[key];
    if (named !== undefined) return [named];
    const others = Object.values(schema.patternProperties ?? {});
    return typeof schema.additionalProperties === "object"
      ? [...others, schema.additionalProperties]
      : others;
  });
}

/**
 * The value with only what its schema allows, and without what any alternative marks as secret, at any depth. So neither a secret nor the
 * connection, which the schemas of kinds do not hold, can end up in an entry.
 */
function publicPart(schemas: readonly Schema[], value: unknown): unknown {
  if (Array.isArray(value)) {
    const items = schemas.flatMap(alternatives).flatMap((schema) => schema.items ?? []);
    return isSecret(items) ? [] : value.map((item) => publicPart(items, item));
  }
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, member]) => {
      const own = schemasOf(schemas, key);
      return own.length === 0 || isSecret(own) ? [] : [[key, publicPart(own, member)]];
    }),
  );
}

/** The schema that such a value has to meet. */
function publicSchema(schema: Schema): Schema {
  const { properties, items } = schema;
  const kept = Object.entries(properties ?? {}).filter(([, property]) => !isSecret([property]));
  const names = new Set(kept.map(([key]) => key));
  return {
    ...schema,
    ...(items === undefined ? {} : { items: publicSchema(items) }),
    ...(properties === undefined
      ? {}
      : {
          properties: Object.fromEntries(kept.map(([key, property]) => [key, publicSchema(property)])),
          required: (schema.required ?? []).filter((key) => names.has(key)),
        }),
    ...Object.fromEntries(
      branches.flatMap((branch) => {
        const schemas = schema[branch];
        return schemas === undefined ? [] : [[branch, schemas.map(publicSchema)]];
      }),
    ),
  };
}

const validators = new WeakMap<ResourceKind, ValidateFunction>();

function isValid(kind: ResourceKind, inputs: unknown): boolean {
  let validate = validators.get(kind);
  if (validate === undefined) {
    const ajv = new Ajv({
      strict: true,
      strictTypes: false,
      strictRequired: false,
      strictTuples: false,
      keywords: ["secret"],
    });
    validate = ajv.compile(publicSchema(kind.inputs as Schema));
    validators.set(kind, validate);
  }
  return validate(inputs) && (kind.check?.(inputs as never) ?? []).length === 0;
}

/** The entry that lets another process ask this probe again: one line of JSON, never with a secret in it. */
export function manifestEntry(kind: ResourceKind, inputs: object): string {
  return JSON.stringify({
    token: kind.token,
    inputs: publicPart([kind.inputs], inputs),
  });
}

/** The probes that the entries of a manifest stand for. Whatever is not as this provider would have written it is left out. */
export function probesOfManifest(
  parts: Readonly<Record<string, PartOutput>> | undefined,
  kinds: readonly ResourceKind[],
): readonly Probe<Observed<unknown>>[] {
  if (parts === undefined || parts["entries"]?.code !== 0) return [];
  const dependent = new Map(
    kinds.filter((kind) => kind.observe.length > 0).map((kind) => [kind.token as string, kind]),
  );
  const probes = new Map<string, Probe<Observed<unknown>>>();
  for (const line of parts["entries"].stdout.split("\n")) {
    if (probes.size >= maxEntries) break;
    const probe = probeOfEntry(line, dependent);
    if (probe !== undefined) probes.set(probe.id, probe);
  }
  return [...probes.values()];
}

function probeOfEntry(
  line: string,
  kinds: ReadonlyMap<string, ResourceKind>,
): Probe<Observed<unknown>> | undefined {
  try {
    const entry: unknown = JSON.parse(line);
    if (typeof entry !== "object" || entry === null) return undefined;
    const { token, inputs } = entry as Readonly<Record<string, unknown>>;
    const kind = kinds.get(String(token));
    if (kind === undefined) return undefined;
    return isValid(kind, inputs) ? kind.observe(inputs as never) : undefined;
  } catch {
    // Not JSON, or inputs of another version that its probe can't be made of.
    return undefined;
  }
}
