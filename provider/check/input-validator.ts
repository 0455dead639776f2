import { Ajv, type ErrorObject, type ValidateFunction } from "ajv";
import type { TSchema } from "typebox";
import {
  copyProperties,
  formatPath,
  isProperties,
  unknownPaths,
  type Path,
  type Properties,
  type Value,
} from "../host/values.ts";
import type { InputProblem } from "../resource.ts";
import { describeProblem } from "./problem.ts";

export interface Validated {
  /** The inputs with defaults filled in. */
  readonly inputs: Properties;
  readonly problems: readonly InputProblem[];
}

/** Fills in the defaults of a schema, and judges. Compiled at its first use. */
export interface InputValidator {
  /** All problems at once. Values that are not computed yet are not judged, nor is what depends on them. */
  validate(inputs: Properties, secrets: readonly Path[]): Validated;
}

export function inputValidator(schema: TSchema): InputValidator {
  let compiled: ValidateFunction | undefined;
  return {
    validate(given, secrets) {
      compiled ??= compile(schema);
      const inputs: Record<string, Value> = copyProperties(given);
      if (compiled(inputs)) return { inputs, problems: [] };
      const unknowns = unknownPaths(inputs).map(pointer);
      const errors = (compiled.errors ?? []).filter((error) => !dependsOnUnknown(error, unknowns));
      const problems = describe(errors, secrets);
      return { inputs, problems };
    },
  };
}

function compile(schema: TSchema): ValidateFunction {
  const ajv = new Ajv({
    allErrors: true,
    // Values and schemas of what failed, for messages.
    verbose: true,
    useDefaults: true,
    strict: true,
    strictTypes: false,
    strictRequired: false,
    strictTuples: false,
    keywords: ["secret"],
  });
  return ajv.compile(schema);
}

const pointer = (path: Path): string =>
  path.map((part) => `/${String(part).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");

/** Keywords that judge an object or list as a whole, without looking into what it holds. */
const judgesShapeOnly: ReadonlySet<string> = new Set([
  "required",
  "additionalProperties",
  "type",
  "minItems",
  "maxItems",
  "minProperties",
  "maxProperties",
]);

/** Whether the fault is one of, or caused by, a value that is not computed yet. */
function dependsOnUnknown(error: ErrorObject, unknowns: readonly string[]): boolean {
  return unknowns.some(
    (unknown) =>
      isWithin(error.instancePath, unknown) ||
      (isWithin(unknown, error.instancePath) && !judgesShapeOnly.has(error.keyword)),
  );
}

const isWithin = (inner: string, outer: string): boolean => inner === outer || inner.startsWith(`${outer}/`);

/** One problem per fault: alternatives (`anyOf`) give one error for each branch, of which at most one branch is of interest. */
function describe(errors: readonly ErrorObject[], secrets: readonly Path[]): InputProblem[] {
  const secretPointers = secrets.map(pointer);
  const problems = new Map<string, InputProblem>();
  for (const error of relevant(errors)) {
    const path = pathOf(error);
    const hidden = secretPointers.some((secret) => isWithin(error.instancePath, secret));
    const problem = { path: formatPath(path), message: describeProblem(error, hidden) };
    problems.set(`${problem.path}\n${problem.message}`, problem);
  }
  return [...problems.values()];
}

function relevant(errors: readonly ErrorObject[]): readonly ErrorObject[] {
  const alternatives = errors.filter(({ keyword }) => keyword === "anyOf" || keyword === "oneOf");
  return errors.filter((error) => {
    const outer = alternatives.find(
      (one) => one !== error && error.schemaPath.startsWith(`${one.schemaPath}/`),
    );
    if (outer === undefined)
      return !(alternatives.includes(error) && chosenBranch(error, errors) !== undefined);
    const branch = chosenBranch(outer, errors);
    return branch !== undefined && error.schemaPath.startsWith(`${branch}/`);
  });
}

/** The branch that was meant, when the value is an object and only one branch agrees with its constants (or only one is for objects at all). */
function chosenBranch(alternative: ErrorObject, errors: readonly ErrorObject[]): string | undefined {
  if (!isProperties(alternative.data)) return undefined;
  const branches = (alternative.schema as readonly unknown[]).map(
    (_, index) => `${alternative.schemaPath}/${index}`,
  );
  const meant = branches.filter(
    (branch) =>
      !errors.some(
        (error) =>
          error.schemaPath.startsWith(`${branch}/`) &&
          (error.keyword === "const" ||
            (error.keyword === "type" && error.instancePath === alternative.instancePath)),
      ),
  );
  return meant.length === 1 ? meant[0] : undefined;
}

function pathOf(error: ErrorObject): Path {
  const parts = error.instancePath
    .split("/")
    .slice(1)
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  const parameters = error.params as { missingProperty?: string; additionalProperty?: string };
  const last = parameters.missingProperty ?? parameters.additionalProperty;
  // A JSON pointer does not tell an index from a property named by digits; no resource has the latter.
  const path: (string | number)[] = parts.map((part) => (/^\d+$/.test(part) ? Number(part) : part));
  return last === undefined ? path : [...path, last];
}
