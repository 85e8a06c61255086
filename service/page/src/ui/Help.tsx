import { BINDINGS } from "./keys";
import { Dialog, Kbd } from "./parts";

const GROUPS = ["Move", "Draw", "Label", "Review", "Train", "View"] as const;

export function Help({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keyboard shortcuts" onClose={onClose} wide>
      <div class="key-sheet" tabIndex={0}>
        {GROUPS.map((group) => {
          const bindings = BINDINGS.filter((binding) => binding.group === group && binding.shown);
          return bindings.length ? (
            <section key={group}>
              <h3>{group}</h3>
              <dl>
                {bindings.map((binding) => (
                  <div key={binding.shown}>
                    <dt>
                      <Kbd>{binding.shown}</Kbd>
                    </dt>
                    <dd>{binding.description}</dd>
                  </div>
                ))}
              </dl>
            </section>
          ) : null;
        })}
      </div>
    </Dialog>
  );
}
