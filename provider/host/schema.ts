import type { Handler } from "./handler.ts";

/** The part of JSON Schema that TypeBox writes and a package schema can say. */
interface JsonSchema {
  readonly type?: string;
  readonly title?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly secret?: boolean;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly JsonSchema[];
  readonly items?: JsonSchema;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly patternProperties?: Readonly<Record<string, JsonSchema>>;
  readonly additionalProperties?: JsonSchema | boolean;
}

interface TypeSpec {
  type?: string;
  $ref?: string;
  items?: TypeSpec;
  additionalProperties?: TypeSpec;
  oneOf?: TypeSpec[];
}

interface PropertySpec extends TypeSpec {
  description?: string;
  default?: unknown;
  secret?: boolean;
}

interface ObjectSpec {
  type: "object";
  description?: string;
  properties: Record<string, PropertySpec>;
  required?: string[];
}

interface EnumSpec {
  type: string;
  description?: string;
  enum: { name?: string; value: unknown }[];
}

export interface PackageSchemaOptions {
  /** Package name, e.g. `edgeseal`. */
  readonly name: string;
  readonly version: string;
  readonly description: string;
  readonly handlers: readonly Handler[];
}

/**
 * The Pulumi package schema (https://www.pulumi.com/docs/iac/extending-pulumi/schema/) of all resources, as JSON: SDKs for every language are
 * generated from it. Objects and enumerations within resources become named types; the same TypeBox schema used in two places is one type.
 * @throws Error for a schema that Pulumi has no words for, naming the place.
 */
export function packageSchema(options: PackageSchemaOptions): string {
  const types = new NamedTypes(options.name);
  const resources: Record<string, unknown> = {};
  for (const handler of options.handlers) {
    const place = { module: handler.token.split(":")[1] ?? "index", name: handler.token.split(":")[2] ?? "" };
    const inputs = types.object(handler.inputs, place);
    const state = types.object(handler.state, { ...place, name: `${place.name}State` });
    resources[handler.token] = {
      description: handler.description,
      inputProperties: inputs.properties,
      requiredInputs: inputs.required,
      properties: state.properties,
      required: state.required,
    };
  }
  return JSON.stringify({
    name: options.name,
    version: options.version,
    description: options.description,
    keywords: ["raspberry-pi", "edge", "security", "category/infrastructure", "kind/native"],
    license: "Apache-2.0",
    meta: { moduleFormat: "(.*)" },
    language: {
      nodejs: { respectSchemaVersion: true },
      python: { respectSchemaVersion: true, pyproject: { enabled: true } },
    },
    config: {},
    provider: {
      description: "Reaches nodes as each resource's `connection` says; has no configuration of its own.",
    },
    types: types.all,
    resources,
  });
}

/** Where a schema was found; names the type that it becomes. */
interface Place {
  readonly module: string;
  readonly name: string;
}

class NamedTypes {
  readonly all: Record<string, ObjectSpec | EnumSpec> = {};
  readonly #package: string;
  /** By content: TypeBox copies what is wrapped in `Optional`, so identity would not do. */
  readonly #tokens = new Map<string, string>();

  constructor(packageName: string) {
    this.#package = packageName;
  }

  object(schema: JsonSchema, place: Place): { properties: Record<string, PropertySpec>; required: string[] } {
    const properties: Record<string, PropertySpec> = {};
    const required: string[] = [];
    for (const [key, property] of Object.entries(schema.properties ?? {})) {
      const within = { module: place.module, name: place.name + capitalized(key) };
      const spec: PropertySpec = this.type(property, within);
      if (property.description !== undefined) spec.description = property.description;
      if (property.secret === true) spec.secret = true;
      if (isScalar(property.default)) spec.default = property.default;
      properties[key] = spec;
      // What has a default may be left out; check fills it in.
      if ((schema.required ?? []).includes(key) && property.default === undefined) required.push(key);
    }
    return { properties, required };
  }

  type(schema: JsonSchema, place: Place): TypeSpec {
    const values = enumeration(schema);
    if (values !== undefined) {
      if (values.length === 1 || values.some((value) => typeof value === "boolean"))
        return { type: jsonType(values[0]) };
      return this.#named(schema, place, () => ({
        type: jsonType(values[0]),
        enum: values.map((value) => ({ name: capitalized(String(value)), value })),
      }));
    }
    if (schema.anyOf !== undefined) {
      const branches = schema.anyOf.filter(({ type }) => type !== "null");
      const [only] = branches;
      if (branches.length === 1 && only !== undefined) return this.type(only, place);
      const specs = branches.map((branch, index) =>
        this.type(branch, { ...place, name: place.name + (branch.title ?? String(index + 1)) }),
      );
      const [first] = specs;
      const distinct = specs.filter(
        (spec, i) => specs.findIndex((other) => JSON.stringify(other) === JSON.stringify(spec)) === i,
      );
      return distinct.length === 1 && first !== undefined ? first : { oneOf: distinct };
    }
    switch (schema.type) {
      case "string":
      case "integer":
      case "number":
      case "boolean":
        return { type: schema.type };
      case "array":
        return {
          type: "array",
          items: this.type(schema.items ?? {}, { ...place, name: singular(place.name) }),
        };
      case "object": {
        if (schema.properties !== undefined && Object.keys(schema.properties).length > 0) {
          return this.#named(schema, place, () => ({ type: "object", ...this.object(schema, place) }));
        }
        const [pattern] = Object.values(schema.patternProperties ?? {});
        const values =
          pattern ??
          (typeof schema.additionalProperties === "object" ? schema.additionalProperties : undefined);
        return {
          type: "object",
          additionalProperties:
            values === undefined
              ? { $ref: "pulumi.json#/Any" }
              : this.type(values, { ...place, name: singular(place.name) }),
        };
      }
      case undefined:
        return { $ref: "pulumi.json#/Any" };
      default:
        throw new Error(
          `${place.module}:${place.name}: a package schema can't say the type '${schema.type}'`,
        );
    }
  }

  #named(schema: JsonSchema, place: Place, make: () => ObjectSpec | EnumSpec): TypeSpec {
    const content = JSON.stringify(schema);
    let token = this.#tokens.get(content);
    if (token === undefined) {
      // A titled schema is shared by all resources, and named by its title.
      const wanted =
        schema.title === undefined
          ? `${this.#package}:${place.module}:${place.name}`
          : `${this.#package}:index:${schema.title}`;
      token = wanted;
      for (let n = 2; token in this.all; n++) token = `${wanted}${n}`;
      this.#tokens.set(content, token);
      const spec = make();
      if (schema.description !== undefined) spec.description = schema.description;
      this.all[token] = spec;
    }
    return { $ref: `#/types/${token}` };
  }
}

/** The values of an enumeration, in either of the ways that TypeBox writes one. */
function enumeration(schema: JsonSchema): readonly unknown[] | undefined {
  if (schema.enum !== undefined) return schema.enum;
  if (schema.const !== undefined) return [schema.const];
  if (schema.anyOf !== undefined && schema.anyOf.every((branch) => branch.const !== undefined)) {
    return schema.anyOf.map((branch) => branch.const);
  }
  return undefined;
}

const jsonType = (value: unknown): string =>
  typeof value === "number" ? (Number.isInteger(value) ? "integer" : "number") : typeof value;

const isScalar = (value: unknown): value is string | number | boolean =>
  typeof value === "string" || typeof value === "number" || typeof value === "boolean";

const capitalized = (text: string): string =>
  text
    .split(/[^A-Za-z0-9]+/)
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join("");

const singular = (text: string): string => (/[^su]s$/.test(text) ? text.slice(0, -1) : `${text}Item`);
