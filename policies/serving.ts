import { violation, type Judgement } from "./control.ts";
import type { BlockStates, InputsOf, JudgedNode } from "./node.ts";

type Health = Pick<BlockStates["inference"], "health"> & Partial<Pick<BlockStates["inference"], "reason">>;

/** Judges what was read of the container's process; where none runs there is nothing to read, and why is the evidence. */
export const whereServing = <S extends Health>(state: S, judge: (state: S) => Judgement): Judgement =>
  state.health === "not running"
    ? violation(`nothing runs: ${state.reason ?? "no reason is known"}`)
    : judge(state);

/** What is asked of the container; of what was not seen, nothing. */
export const askedContainer = ({ asked }: JudgedNode): Partial<InputsOf<"inference">> =>
  typeof asked?.inference === "object" ? asked.inference : {};
