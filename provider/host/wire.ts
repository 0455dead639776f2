import type { JavaScriptValue, Struct as StructMessage } from "google-protobuf/google/protobuf/struct_pb.js";
import { InvalidRequest } from "./errors.ts";
import { struct as structProto } from "./proto.ts";
import {
  formatPath,
  isList,
  isProperties,
  Unknown,
  type Path,
  type Properties,
  type Value,
} from "./values.ts";

/** The key that marks an object on the wire as something else than an object, and the marks (pulumi/sdk/go/common/resource/sig). */
const signatureKey = "4dabf18193072939515e22adb298388d";
const signatures = {
  secret: "1b47061264138c4ac30d75fd1eb44270",
  asset: "c44067f5952c0a294b673a41bacd8c17",
  archive: "0def7320c3a5731c473e5ecbe6d01bc7",
  resource: "5cf8f73096256a8f31e491e813e4eb8e",
  output: "d0e6a833031e9bbcd3f4e8bde6ca49a4",
} as const;

/** How values that are not computed yet travel: one string per type that they will have (pulumi/pkg/resource/plugin/rpc.go). */
const unknownString = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";
const unknownMarks: ReadonlySet<unknown> = new Set([
  unknownString,
  "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
  "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
  "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
  "030794c1-ac77-496b-92df-f27374a8bd58",
  "e48ece36-62e2-4504-bad9-02848725956a",
  "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
]);

export interface Decoded {
  readonly properties: Properties;
  /** Where the engine had wrapped a secret; the outermost path only, for a secret within a secret. */
  readonly secrets: readonly Path[];
}

/**
 * Properties as they came, secrets unwrapped and their places noted. A property that is null is one that is not given, as everywhere in Pulumi.
 * @throws InvalidRequest for assets, archives and references to resources, which no resource of this kind takes.
 */
export function decodeStruct(struct: StructMessage | undefined): Decoded {
  const secrets: Path[] = [];
  const decode = (wire: unknown, at: Path, withinSecret: boolean): Value => {
    if (unknownMarks.has(wire)) return Unknown;
    if (isList(wire)) return wire.map((item, index) => decode(item, [...at, index], withinSecret));
    if (!isProperties(wire)) return wire as Value;
    const signature = wire[signatureKey];
    if (signature === signatures.secret) {
      if (!withinSecret) secrets.push(at);
      return decode(wire["value"], at, true);
    }
    if (signature !== undefined) throw refusal(signature, at);
    return Object.fromEntries(
      Object.entries(wire)
        .filter(([, value]) => value !== null)
        .map(([key, value]) => [key, decode(value, [...at, key], withinSecret)]),
    );
  };
  return { properties: decode(struct?.toJavaScript() ?? {}, [], false) as Properties, secrets };
}

function refusal(signature: unknown, at: Path): InvalidRequest {
  const what =
    signature === signatures.asset
      ? "an asset"
      : signature === signatures.archive
        ? "an archive"
        : signature === signatures.resource
          ? "a resource"
          : "a value of an unknown kind";
  return new InvalidRequest(`expected plain data, got ${what}; give the value itself`, formatPath(at));
}

/** Properties as they travel, with the values at `secrets` wrapped. Properties that are `undefined` are left out. */
export function encodeStruct(properties: Properties, secrets: readonly Path[]): StructMessage {
  const marked = new Set(secrets.map((path) => JSON.stringify(path)));
  const encode = (value: Value | undefined, at: Path, withinSecret: boolean): unknown => {
    if (!withinSecret && marked.has(JSON.stringify(at))) {
      return { [signatureKey]: signatures.secret, value: encode(value, at, true) };
    }
    if (value === Unknown) return unknownString;
    if (isList(value)) return value.map((item, index) => encode(item, [...at, index], withinSecret));
    if (isProperties(value)) {
      return Object.fromEntries(
        Object.entries(value)
          .filter(([, item]) => (item as unknown) !== undefined)
          .map(([key, item]) => [key, encode(item, [...at, key], withinSecret)]),
      );
    }
    return value ?? null;
  };
  return structProto.Struct.fromJavaScript(
    encode(properties, [], false) as { readonly [key: string]: JavaScriptValue },
  );
}
