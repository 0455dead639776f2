import { driftOf } from "../engine-events.ts";
import { said } from "../pulumi.ts";
import { holds, show, type DemoContext } from "./step.ts";

/** What a refresh found. */
export interface Refreshed {
  /** The drifted properties as the engine reported them, as `Kind.path`. */
  readonly drifted: readonly string[];
  /** What it printed. */
  readonly text: string;
}

/** Neither `up` nor `refresh` finds a change. */
export async function nothingToDo(context: DemoContext): Promise<void> {
  const again = await context.pulumi.run(["up", "--yes", "--expect-no-changes", "--stack", "demo"], {
    signal: context.signal,
  });
  holds(context, again.code === 0, "another pulumi up changes nothing", said(again));
  await noDrift(context);
}

export async function noDrift(context: DemoContext): Promise<void> {
  const { drifted } = await refresh(context);
  holds(context, drifted.length === 0, "pulumi refresh finds no drift", drifted.join("\n"));
}

/** Runs `pulumi refresh --preview-only --diff`, and shows what it prints when it found drift. */
export async function refresh(context: DemoContext): Promise<Refreshed> {
  const log = `${context.pulumi.folder}/events.json`;
  const result = await context.pulumi.run(
    ["refresh", "--preview-only", "--diff", "--stack", "demo", "--event-log", log],
    { signal: context.signal, env: { PULUMI_DEBUG_COMMANDS: "true" } },
  );
  holds(
    context,
    result.code === 0,
    "ssh answers: pulumi refresh --preview-only --diff reads the node",
    said(result),
  );
  const drifted = await driftOf(log);
  if (drifted.length > 0) show(context, result.stdout);
  return { drifted, text: result.stdout };
}
