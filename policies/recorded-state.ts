import { unknownValue, type RawBlock } from "./node.ts";
import type { StackResource } from "./stack.ts";

/** How Pulumi marks a special value in a serialized state, and a secret among these (sdk/go/common/resource/sig). */
const sigKey = "4dabf18193072939515e22adb298388d";

/** The text is no exported state of a stack. */
export class NotAState extends Error {
  override readonly name = "NotAState";
}

/**
 * The resources of a stack as `pulumi stack export` writes them (deployment version 3). Secrets are not known: no control reads one, and a value
 * that somebody made secret can't be judged.
 * @throws NotAState when the text is something else.
 */
export function recordedResources(text: string): StackResource[] {
  let exported: unknown;
  try {
    exported = JSON.parse(text);
  } catch (error) {
    throw new NotAState("not JSON", { cause: error });
  }
  const deployment = isRecord(exported) && exported.version === 3 ? exported.deployment : undefined;
  if (!isRecord(deployment)) throw new NotAState("not an exported state of version 3");
  const resources: unknown = deployment.resources ?? [];
  if (!Array.isArray(resources)) throw new NotAState("its resources are no list");
  return resources.flatMap((resource: unknown) => {
    // What waits for its deletion has been replaced, and says nothing of the node as it is.
    if (!isRecord(resource) || resource.delete === true) return [];
    const { urn, type, parent, inputs, outputs } = resource;
    if (typeof urn !== "string" || typeof type !== "string") return [];
    return [
      {
        urn,
        type,
        parent: typeof parent === "string" ? parent : undefined,
        inputs: properties(inputs),
        outputs: properties(outputs),
      },
    ];
  });
}

function properties(value: unknown): RawBlock | undefined {
  const read = plainValue(value);
  return isRecord(read) ? read : undefined;
}

function plainValue(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plainValue);
  if (!isRecord(value)) return value;
  if (sigKey in value) return unknownValue;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plainValue(each)]));
}

const isRecord = (value: unknown): value is RawBlock =>
  typeof value === "object" && value !== null && !Array.isArray(value);
