"""Makes classes of a JSON Schema with datamodel-code-generator, and parses records with them.

Arguments: the schema, a file of one record a line, a folder to work in. Prints what it found.
"""

import importlib
import json
import sys
import warnings
from pathlib import Path

from datamodel_code_generator import DataModelType, InputFileType, generate


def main() -> None:
    schema, records, place = (Path(argument) for argument in sys.argv[1:])
    module = place / "made.py"
    # Which formatters will be the default tomorrow is no matter here.
    warnings.simplefilter("ignore", FutureWarning)
    generate(
        schema,
        input_file_type=InputFileType.JsonSchema,
        output=module,
        output_model_type=DataModelType.PydanticV2BaseModel,
        class_name="Record",
    )
    sys.path.insert(0, str(place))
    made = importlib.import_module("made")
    parsed = [made.Record.model_validate_json(line) for line in records.read_bytes().splitlines()]
    types = {
        f"{name}.{field}": str(info.annotation)
        for name, one in vars(made).items()
        for field, info in getattr(one, "model_fields", {}).items()
    }
    texts = [getattr(one.data, "text", None) for one in parsed]
    sys.stdout.write(json.dumps({"parsed": len(parsed), "types": types, "texts": texts}))


main()
