/**
 * A fault that the user can mend: printed as one message, without a stack. Everything else that is thrown is a fault of
 * edgeseal's own, and keeps its stack.
 */
export class UserError extends Error {
  override readonly name = "UserError";
  /** What to do about it, in one line; shown below the message. */
  readonly hint: string | undefined;

  constructor(message: string, options: { readonly hint?: string; readonly cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.hint = options.hint;
  }
}
