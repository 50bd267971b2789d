"""Attribute values as codes (eq. 4): a cell is the index of its value, or `UNKNOWN` where the report does not mention it."""

from alignedfusion.attributes.attribute import UNKNOWN, Attribute
from alignedfusion.attributes.columns import ColumnOptions
from alignedfusion.attributes.schema import REPORT, AttributeSchema, check_probability

__all__ = ["REPORT", "UNKNOWN", "Attribute", "AttributeSchema", "ColumnOptions", "check_probability"]
