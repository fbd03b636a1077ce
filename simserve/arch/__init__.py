"""Model -> operations and bytes, no times: `dense` lists a step's operations, `memory` counts its bytes."""
